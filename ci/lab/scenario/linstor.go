package scenario

import (
	"fmt"
	"io"
	"log"

	linstorapi "github.com/LINBIT/golinstor/client"

	"github.com/linbit/linstor-rwx/ci/lab"
)

// LINSTOR returns a client of the laboratory's LINSTOR, for what is asked of LINSTOR
// itself and not of Kubernetes, such as a snapshot.
func LINSTOR() (*linstorapi.Client, error) {
	// Its requests are no news.
	silent := linstorapi.Log(log.New(io.Discard, "", 0))
	api, err := linstorapi.NewClient(linstorapi.Controllers([]string{"http://" + lab.LINSTORAddress}), silent)
	if err != nil {
		return nil, fmt.Errorf("connect to LINSTOR: %w", err)
	}
	return api, nil
}
