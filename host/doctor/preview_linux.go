package doctor

import (
	"context"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/choose"
)

// Doors lists what answers here now, and who gets to it, without the rest of an
// examination.
func Doors(ctx context.Context, c Config) ([]Door, error) {
	e := &examination{Config: c}
	e.machine, e.machineErr = choose.Look(ctx, c.Settings.Firewall.Table)
	if e.machineErr == nil {
		e.choice, e.machineErr = choose.Decide(e.machine, c.Settings.Firewall.Backend)
	}
	e.readTable(ctx)
	doors, err := e.doors()
	return sorted(doors), err
}

// Keeps returns those of the keep rules that let somebody in to the door.
func (d Door) Keeps(rules firewall.Rules) []firewall.Keep {
	var keeps []firewall.Keep
	for _, k := range rules.Keep {
		if covers(k, d) {
			keeps = append(keeps, k)
		}
	}
	return keeps
}
