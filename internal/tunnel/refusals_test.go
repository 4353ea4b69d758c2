package tunnel

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestAFloodOfRefusedStreamsIsALineASecond(t *testing.T) {
	var log bytes.Buffer
	r := refusals{log: slog.New(slog.NewTextHandler(&log, nil))}
	begin := time.Now()
	const streams = 3000
	for i := range streams { // three seconds
		r.tell(errors.New("busy"), begin.Add(time.Duration(i)*time.Millisecond))
	}
	r.flush()
	r.flush()
	if n := strings.Count(log.String(), "msg=\"stream refused\""); n != 3 {
		t.Errorf("%d lines of single streams, want 3", n)
	}
	if n := strings.Count(log.String(), "msg=\"more streams refused\" count=999"); n != 3 {
		t.Errorf("%d lines of 999 more, want 3:\n%s", n, log.String())
	}
}
