package resizer

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/linbit/linstor-rwx/pkg/linstor"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// LINSTOR is what this package asks a LINSTOR controller, see pkg/linstor.
type LINSTOR interface {
	Definition(ctx context.Context, name string) (*linstor.Definition, error)
	Replicas(ctx context.Context, name string) ([]linstor.Replica, error)
	RetryGrowth(ctx context.Context, name string) error
}

// view is what LINSTOR says of a volume when something did not work.
type view struct {
	// size of VolNr 0, zero if LINSTOR did not say.
	size resource.Quantity
	// growing: not all nodes have grown it to that size.
	growing bool
	// obstacles are the replicas that keep LINSTOR from growing it.
	obstacles []string
	err       error
}

// look asks LINSTOR itself: the driver passes on its words only.
func (r *resizer) look(definition string) view {
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	defer cancel()
	found, err := r.linstor.Definition(ctx, definition)
	if err != nil || found == nil {
		return view{err: err}
	}
	var known view
	if volume, ok := found.Volume(names.DataVolume); ok {
		known.size = *resource.NewQuantity(int64(volume.SizeKiB)<<10, resource.BinarySI)
		known.growing = volume.Growing
	}
	replicas, err := r.linstor.Replicas(ctx, definition)
	known.obstacles, known.err = linstor.NotUpToDate(replicas), err
	return known
}

// unfinished says why LINSTOR has the new size and not all of its nodes have it, or
// "". If no replica is in its way, a node has failed, and is told to try again: the
// driver would not, because LINSTOR has the size.
func (r *resizer) unfinished(definition string) string {
	known := r.look(definition)
	switch {
	case !known.growing:
		return ""
	case len(known.obstacles) > 0:
		return strings.Join(known.obstacles, ", ")
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	defer cancel()
	if err := r.linstor.RetryGrowth(ctx, definition); err != nil {
		return err.Error()
	}
	return "it was told to go on"
}

// refusal is what the driver answered, in one sentence. The controller decides by
// its status whether the claim may ask for another size meanwhile.
type refusal struct {
	text   string
	status *status.Status
}

func (e *refusal) Error() string { return e.text }

// GRPCStatus makes status.FromError return the driver's status.
func (e *refusal) GRPCStatus() *status.Status { return e.status }

func refused(err error, known view) error {
	answer, _ := status.FromError(err)
	return &refusal{text: explain(answer, known), status: answer}
}

// outlived tells whether LINSTOR refused because of a replica that has become
// UpToDate by the time it was looked for.
func outlived(err error, known view) bool {
	return known.err == nil && len(known.obstacles) == 0 && strings.Contains(wordsOfLINSTOR(err.Error()), "non-UpToDate")
}

// explain says in one sentence why the volume was not grown. Nothing in it changes
// from try to try, so that its events are counted.
func explain(answer *status.Status, known view) string {
	said := wordsOfLINSTOR(answer.Message())
	var text string
	switch {
	case said != "":
		text = "LINSTOR refuses: " + said
	case answer.Code() == codes.DeadlineExceeded || answer.Code() == codes.Canceled:
		text = "the CSI driver did not answer in time, LINSTOR may still be at work"
	case errors.Is(known.err, linstor.ErrUnreachable):
		text = linstor.ErrUnreachable.Error()
	default:
		text = withoutDump(answer.Message())
	}
	if len(known.obstacles) > 0 {
		text += "; it grows volumes only while all replicas are UpToDate, and " + strings.Join(known.obstacles, ", ")
	}
	return text
}

// ends are what may follow the message of an entry in golinstor's text.
var ends = []string{"'; Cause: '", "'; Details: '", "'; Correction: '", "'; Reports: '", "' next error: "}

// done matches what LINSTOR lists beside what went wrong.
var done = regexp.MustCompile(`^(Updated|Resized) | modified$`)

// wordsOfLINSTOR takes LINSTOR's messages out of the driver's text, in which
// golinstor writes them (ApiCallRc.String). "" if there are none.
func wordsOfLINSTOR(text string) string {
	var said []string
	for _, entry := range strings.Split(text, "Message: '")[1:] {
		for _, end := range ends {
			entry, _, _ = strings.Cut(entry, end)
		}
		entry = strings.TrimSuffix(oneLine(strings.TrimSuffix(entry, "'")), ".")
		if entry != "" && !done.MatchString(entry) && !slices.Contains(said, entry) {
			said = append(said, entry)
		}
	}
	return strings.Join(said, "; ")
}

// withoutDump removes what linstor-csi prints of its own structures, with their
// addresses.
func withoutDump(text string) string {
	begin, end := strings.Index(text, "&{"), strings.LastIndex(text, "}")
	if begin >= 0 && end > begin {
		text = text[:begin] + "it" + text[end+1:]
	}
	return oneLine(text)
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
