package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/postern-sdp/postern/internal/atomicfile"
)

// knownFile has, in an identity's folder, the services as the controller last named
// them.
const knownFile = "services.json"

// KnownServices returns the services as the controller last named them to the
// identity in folder, without asking it; none when it never did. They are for
// completion, and for a start while the controller is silent: policy decides anew.
func KnownServices(folder string) (Services, error) {
	var known Services
	b, err := atomicfile.ReadPrivate(filepath.Join(folder, knownFile))
	if errors.Is(err, fs.ErrNotExist) {
		return known, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &known)
	}
	if err != nil {
		return Services{}, fmt.Errorf("read the known services: %w", err)
	}
	return known, nil
}

// remember writes the services down. What fails costs a convenience.
func (c *Client) remember(s Services) {
	if b, err := json.Marshal(s); err == nil {
		_ = atomicfile.Write(filepath.Join(c.identity.Folder(), knownFile), b, 0o600)
	}
}
