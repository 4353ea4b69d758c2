package choose

import (
	"fmt"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/survey"
)

func openIPTables(_ string, v survey.Variant) (firewall.Firewall, error) {
	return nil, fmt.Errorf("%w: %s is not built in", ErrNoIPTables, v)
}
