// Package accept takes connections from a listener through the errors that pass.
package accept

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

const (
	shortest = 5 * time.Millisecond
	longest  = time.Second
)

// Next returns the next connection. An error of the listener's, such as too many open
// files, is no reason to stop: it is tried again after a pause, until l is closed or
// ctx ends. failed is told of the first one in a row.
func Next(ctx context.Context, l net.Listener, failed func(error)) (net.Conn, error) {
	for pause := shortest; ; pause = min(2*pause, longest) {
		conn, err := l.Accept()
		if err == nil {
			return conn, nil
		}
		err = fmt.Errorf("accept: %w", err)
		if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
			return nil, err
		}
		if pause == shortest {
			failed(err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}
