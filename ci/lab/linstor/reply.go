package linstor

import (
	"fmt"
	"net/http"
)

// Return codes of LINSTOR's REST API without their type and object bits
// (linstor-common, consts.json; golinstor apiconsts.go).
const (
	codeCreated  = 1
	codeDeleted  = 2
	codeModified = 3

	failInvalidResourceName   = 202
	failInvalidVolumeNumber   = 205
	failInvalidVolumeSize     = 206
	failInvalidProperty       = 213
	failInvalidRequest        = 234
	failNotFoundNode          = 300
	failNotFoundDefinition    = 301
	failNotFoundResource      = 302
	failNotFoundVolume        = 303
	failNotFoundPool          = 310
	failNotFoundSnapshot      = 313
	failNotFoundKeyValueStore = 316
	failNotFoundGroup         = 317
	failExistsDefinition      = 501
	failExistsResource        = 502
	failExistsVolume          = 503
	failExistsSnapshot        = 514
	failExistsGroup           = 522
	failMinorsExhausted       = 801
	failNotAllUpToDate        = 974
	failNotEnoughSpace        = 980
	failSnapshotsUnsupported  = 994
	failNotEnoughNodes        = 996
	failInUse                 = 997
	failUnknown               = 998

	warnNotConnected        = 1002
	warnNoNodeForTieBreaker = 1013
	warnResizeSameSize      = 1023
	warnNotFound            = 3000
)

const (
	maskError = 0xC000000000000000
	maskWarn  = 0x8000000000000000

	opCreate = 0x1000000
	opModify = 0x2000000
	opDelete = 0x3000000

	objGroup      = 0x440000
	objKeyValue   = 0x400000
	objNode       = 0x3C0000
	objDefinition = 0x380000
	objResource   = 0x340000
	objVolume     = 0x300000
	objController = 0x100000
	objSnapshot   = 0x0C0000

	codeBits = 0x7FFF
)

// Reply is one entry of the array that answers every modifying request.
type Reply struct {
	RetCode    int64             `json:"ret_code"`
	Message    string            `json:"message"`
	Cause      string            `json:"cause,omitempty"`
	Details    string            `json:"details,omitempty"`
	Correction string            `json:"correction,omitempty"`
	ObjRefs    map[string]string `json:"obj_refs,omitempty"`
}

// Replies is the body of an answer to a modifying request.
type Replies []Reply

func fail(code, object uint64, format string, args ...any) Replies {
	return Replies{failure(code, object, format, args...)}
}

func failure(code, object uint64, format string, args ...any) Reply {
	return Reply{RetCode: signed(maskError | object | code), Message: fmt.Sprintf(format, args...)}
}

func warning(code, object uint64, format string, args ...any) Reply {
	return Reply{RetCode: signed(maskWarn | object | code), Message: fmt.Sprintf(format, args...)}
}

func success(code, object uint64, format string, args ...any) Reply {
	return Reply{RetCode: signed(object | code), Message: fmt.Sprintf(format, args...)}
}

// signed is how LINSTOR's Java prints its 64 bits.
func signed(code uint64) int64 { return int64(code) }

func (r Reply) isError() bool { return uint64(r.RetCode)&maskError == maskError }

func (r Reply) code() uint64 { return uint64(r.RetCode) & codeBits }

func (rs Replies) failed() bool {
	for _, r := range rs {
		if r.isError() {
			return true
		}
	}
	return false
}

// status maps replies to HTTP as ApiCallRcRestUtils.toResponse does: any error
// is 500, unless an error is of the not-found (404) or access-denied (403)
// range. Warnings, also "not found" for a deletion, are successes.
func (rs Replies) status(ok int) int {
	status := ok
	for _, r := range rs {
		if !r.isError() {
			continue
		}
		switch code := r.code(); {
		case code >= 300 && code < 400:
			return http.StatusNotFound
		case code >= 400 && code < 500:
			return http.StatusForbidden
		default:
			status = http.StatusInternalServerError
		}
	}
	return status
}
