package lab

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// countThrough runs two counters whose bytes from one to the other pass through
// tamper, 8 KiB at a time, and returns what settling says.
func countThrough(t *testing.T, tamper func(chunk int, b []byte) []byte) error {
	t.Helper()
	nearConn, nearWire := tcpPair(t)
	farWire, farConn := tcpPair(t)
	go func() { // ends with the connections
		chunk := make([]byte, countChunk)
		for i := 0; ; i++ {
			n, err := io.ReadFull(nearWire, chunk)
			if _, lost := farWire.Write(tamper(i, chunk[:n])); err != nil || lost != nil {
				_ = farWire.(*net.TCPConn).CloseWrite()
				return
			}
		}
	}()
	go func() { // ends with the connections
		_, _ = io.Copy(nearWire, farWire)
		_ = nearWire.(*net.TCPConn).CloseWrite()
	}()
	near, far := count(nearConn, steadily), count(farConn, steadily)
	err := Wait(t.Context(), 10*time.Second, "some chunks", func() (bool, error) {
		sent, _ := near.totals()
		return sent > 30*countChunk || far.Err() != nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return near.settle(far, 5*time.Second)
}

func tcpPair(t *testing.T) (one, other net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if one, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if other, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { one.Close(); other.Close() })
	return one, other
}

func TestACounterSeesWhatIsLostDoubledOrCutOff(t *testing.T) {
	for name, tamper := range map[string]func(int, []byte) []byte{
		"a lost number": func(i int, b []byte) []byte {
			if i == 7 {
				return b[8:]
			}
			return b
		},
		"a lost byte": func(i int, b []byte) []byte {
			if i == 7 {
				return b[:len(b)-1]
			}
			return b
		},
		"a doubled chunk": func(i int, b []byte) []byte {
			if i == 7 {
				return append(append([]byte{}, b...), b...)
			}
			return b
		},
		"a lost chunk": func(i int, b []byte) []byte {
			if i == 7 {
				return nil
			}
			return b
		},
		"a lost end": func(i int, b []byte) []byte {
			if i >= 22 {
				return nil
			}
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := countThrough(t, tamper); !errors.Is(err, errPromise) {
				t.Errorf("settled with %v", err)
			}
		})
	}
	if err := countThrough(t, func(_ int, b []byte) []byte { return b }); err != nil {
		t.Errorf("untouched: %v", err)
	}
}

func TestACounterMeasuresASilence(t *testing.T) {
	nearConn, wire := tcpPair(t)
	near := count(nearConn, steadily)
	far := count(wire, steadily)
	if err := bothCome(t.Context(), near, far, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	near.mark()
	far.mu.Lock() // it neither sends nor receives
	time.Sleep(300 * time.Millisecond)
	far.mu.Unlock()
	if err := bothCome(t.Context(), near, far, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if got := near.stall(); got < 250*time.Millisecond {
		t.Errorf("a silence of 300 ms was noted as %s", got)
	}
	near.mark()
	if got := near.stall(); got > 250*time.Millisecond {
		t.Errorf("after mark, a stall of %s is left over", got)
	}
	if err := near.settle(far, 5*time.Second); err != nil {
		t.Error(err)
	}
}
