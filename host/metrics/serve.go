package metrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/postern-sdp/postern/host"
)

// A reader has this long, and no longer, whatever it does.
const (
	readLimit  = 5 * time.Second // for the request
	writeLimit = 10 * time.Second
	idleLimit  = time.Minute
	maxHeader  = 16 << 10 // bytes
	maxScrapes = 4        // at once
)

// Serve answers GET /metrics on l until ctx ends, and closes it. status is asked for
// each answer.
func Serve(ctx context.Context, l net.Listener, status func() (host.Status, error)) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry(status), promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes, Timeout: readLimit,
	}))
	server := &http.Server{
		Handler: mux, ReadTimeout: readLimit, WriteTimeout: writeLimit, IdleTimeout: idleLimit,
		MaxHeaderBytes: maxHeader,
	}
	over, end := context.WithCancel(ctx)
	defer end()
	var g errgroup.Group
	g.Go(func() error {
		<-over.Done()
		return server.Close()
	})
	g.Go(func() error {
		defer end()
		return server.Serve(l)
	})
	if err := g.Wait(); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}
