package choose

import (
	"context"

	"github.com/postern-sdp/postern/firewall/survey"
)

// Obstacles returns the chains of others that stop the probe for most packets once the
// choice of that name is installed, each once.
func Obstacles(ctx context.Context, name string, c Choice, p survey.Probe) ([]survey.Obstacle, error) {
	m, err := Look(ctx, name)
	if err != nil {
		return nil, err
	}
	// Before the iptables backend is installed its own rules do not stand in front yet.
	first := c.Backend == IPTables && len(m.Ours) == 0
	var all []survey.Obstacle
	seen := make(map[survey.Chain]bool)
	for _, o := range m.Obstacles(p) {
		if o.Level >= survey.Maybe && !(first && o.Chain.Variant == c.Variant) && !seen[o.Chain] {
			seen[o.Chain] = true
			all = append(all, o)
		}
	}
	return all, nil
}
