package lab

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// startSources offers two services on the host's loopback: an endless source of
// bytes, and one that greets and waits.
func (l *Lab) startSources() error {
	return errors.Join(l.Serve("host", fmt.Sprintf("127.0.0.1:%d", bulkPort), pour),
		l.Serve("host", fmt.Sprintf("127.0.0.1:%d", helloPort), greet))
}

// Serve hands every connection to a TCP address of a machine to serve, which
// closes it, for as long as this process lives and the lab stands.
func (l *Lab) Serve(where, address string, serve func(net.Conn)) error {
	var source net.Listener
	err := l.in(where, func() (err error) {
		source, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		return err
	}
	l.sources = append(l.sources, source)
	go func() { // ends when Down closes the listener
		for {
			conn, err := source.Accept()
			if err != nil {
				return
			}
			go serve(conn) // ends when the reader goes away
		}
	}()
	return nil
}

func greet(conn net.Conn) {
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello\n"); err == nil {
		_, _ = io.Copy(io.Discard, conn)
	}
}

func pour(conn net.Conn) {
	defer conn.Close()
	chunk := make([]byte, 64<<10)
	for {
		if _, err := conn.Write(chunk); err != nil {
			return
		}
	}
}

// drain reads from conn until nothing has come for a while, and returns how much
// came, and when the last of it did.
func drain(conn net.Conn, quiet time.Duration) (n int64, last time.Time) {
	buf := make([]byte, 256<<10)
	for {
		_ = conn.SetReadDeadline(time.Now().Add(quiet))
		got, err := conn.Read(buf)
		if got > 0 {
			n += int64(got)
			last = time.Now()
		}
		if err != nil {
			return n, last
		}
	}
}

// ServePackets answers each datagram to a UDP address of a machine with itself, for
// as long as this process lives and the lab stands.
func (l *Lab) ServePackets(where, address string) error {
	var socket net.PacketConn
	err := l.in(where, func() (err error) {
		socket, err = net.ListenPacket("udp", address)
		return err
	})
	if err != nil {
		return err
	}
	l.packets = append(l.packets, socket)
	go func() { // ends when Down closes the socket
		b := make([]byte, 2048)
		for {
			n, from, err := socket.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = socket.WriteTo(b[:n], from)
		}
	}()
	return nil
}
