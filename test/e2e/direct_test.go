package e2e

import (
	"testing"

	"github.com/postern-sdp/postern/test/lab"
)

// TestADirectServiceIsOpenToWhomItsBindingSays: to the client's socket alone, or to all
// who share its address; in both cases until the session is taken back.
func TestADirectServiceIsOpenToWhomItsBindingSays(t *testing.T) {
	l := newLab(t)
	d, err := lab.NewDirect(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	inOrder(t, l, d.Steps(), d)
}
