package choose

import (
	"context"
	"errors"

	"github.com/postern-sdp/postern/firewall/survey"
)

// RemoveAll removes what is installed under that name, of every backend and whatever
// the configuration says, and returns where it was.
func RemoveAll(ctx context.Context, name string) ([]survey.Variant, error) {
	m, err := Look(ctx, name)
	if err != nil {
		return nil, err
	}
	for range m.Ours {
		fw, _, err := Open(ctx, Config{Name: name})
		if err != nil {
			return nil, err
		}
		if err := errors.Join(fw.Remove(ctx), fw.Close()); err != nil {
			return nil, err
		}
	}
	return m.Ours, nil
}
