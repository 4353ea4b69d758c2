package client

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/postern-sdp/postern/internal/atomicfile"
	"github.com/postern-sdp/postern/internal/control"
)

// CachedList is what a device might reach when the controller was last asked.
type CachedList struct {
	Asked time.Time `json:"asked"`
	Services
}

// CachedServices returns the last answer to [Client.Services] of the identity in
// folder, without asking anybody: for completion and the like, where knocking would be
// too much. What policy says now may be something else. The error is fs.ErrNotExist
// when nobody has asked yet.
func CachedServices(folder string) (CachedList, error) {
	b, err := atomicfile.ReadPrivate(filepath.Join(folder, control.ServicesFile))
	if err != nil {
		return CachedList{}, fmt.Errorf("read the last list of services: %w", err)
	}
	var list CachedList
	if err := json.Unmarshal(b, &list); err != nil {
		return CachedList{}, fmt.Errorf("read the last list of services: %w", err)
	}
	return list, nil
}

// cache keeps the list for [CachedServices]. A list that could not be kept is none
// less, so that is no error.
func (c *Client) cache(list Services) {
	folder := c.identity.Folder()
	b, err := json.Marshal(CachedList{time.Now().Round(0), list})
	if folder == "" || err != nil {
		return
	}
	_ = atomicfile.Write(filepath.Join(folder, control.ServicesFile), append(b, '\n'), 0o600)
}
