package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"time"
)

// echo sends back what comes, to its end.
func echo(conn net.Conn) {
	defer conn.Close()
	if _, err := io.Copy(conn, conn); err == nil {
		_ = conn.(*net.TCPConn).CloseWrite()
	}
}

// exchange sends random bytes over a connection to an echo and checks that the same
// come back.
func exchange(conn net.Conn, size int) error {
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	sent, came := make([]byte, size), make([]byte, size)
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	writing := make(chan error, 1)
	go func() { // ends with the connection
		_, err := conn.Write(sent)
		writing <- err
	}()
	n, err := io.ReadFull(conn, came)
	if err := errors.Join(err, <-writing); err != nil {
		return fmt.Errorf("%d of %d bytes came back: %w", n, size, err)
	}
	if !bytes.Equal(came, sent) {
		return broken("%d bytes came back, and not the same", size)
	}
	return nil
}

// carries is exchange, and then the end of both directions, one after the other. It
// closes the connection.
func carries(conn net.Conn, size int) error {
	defer conn.Close()
	if err := exchange(conn, size); err != nil {
		return err
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return err
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		return broken("%d more bytes came, %v", n, err)
	}
	return nil
}

// answers sends one byte to an echo and waits a while for it.
func answers(conn net.Conn, within time.Duration) error {
	_ = conn.SetDeadline(time.Now().Add(within))
	if _, err := conn.Write([]byte{'x'}); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errors.New("no answer")
	}
	return err
}

// Echoes reports whether a datagram comes back as it was within a moment.
func Echoes(conn net.Conn, datagram []byte) bool {
	if _, err := conn.Write(datagram); err != nil {
		return false
	}
	_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	b := make([]byte, len(datagram)+1)
	n, err := conn.Read(b)
	return err == nil && bytes.Equal(b[:n], datagram)
}
