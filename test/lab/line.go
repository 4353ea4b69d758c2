package lab

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// lineLength bounds the frames on their way on one direction of a long line.
const lineLength = 4096

// lineQueue is how much waits in front of a line of a certain rate, as the time that
// sending it takes.
const lineQueue = 50 * time.Millisecond

// LongLine makes every frame to and from a machine of the internet take a while,
// in each direction, and lets no more through than rate bits a second, 0 for any. It
// lasts as long as this process and the lab. The machine's addresses and the order of
// its frames stay.
//
// Kernels without a delaying queue are no obstacle: the machine's port leaves the
// bridge, and this process carries frames between it and a new port.
func (l *Lab) LongLine(machine string, delay time.Duration, rate int) error {
	port := ""
	for i, k := range links {
		if k.from == machine && k.to == "internet" {
			port = fmt.Sprintf("port%d", i)
		}
	}
	if port == "" {
		return fmt.Errorf("%s is no machine of the internet's", machine)
	}
	w := &longLine{delay: delay, rate: rate, ends: [2]int{-1, -1}, stop: make(chan struct{})}
	err := l.in("internet", func() error {
		dev, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetNoMaster(dev); err != nil {
			return err
		}
		pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: port + "a"}, PeerName: port + "b"}
		if err := netlink.LinkAdd(pair); err != nil {
			return err
		}
		if err := joinBridge("br0", port+"a", nil); err != nil {
			return err
		}
		if err := configure(port+"b", nil); err != nil {
			return err
		}
		for i, name := range []string{port, port + "b"} {
			if w.ends[i], err = openWire(name); err != nil {
				return fmt.Errorf("open %s: %w", name, err)
			}
		}
		return linksUp()
	})
	if err != nil {
		w.Close()
		return fmt.Errorf("make the line to %s long: %w", machine, err)
	}
	w.group.Go(func() { w.carry(w.ends[0], w.ends[1]) })
	w.group.Go(func() { w.carry(w.ends[1], w.ends[0]) })
	l.lines = append(l.lines, w)
	return nil
}

// longLine carries frames between two sockets until Close.
type longLine struct {
	delay time.Duration
	rate  int // bits a second; 0: any
	ends  [2]int
	stop  chan struct{}
	group sync.WaitGroup
}

// Close ends the carrying. It may be called once.
func (w *longLine) Close() {
	close(w.stop)
	w.group.Wait()
	for _, fd := range w.ends {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// openWire opens a socket that takes all frames that arrive at an interface, with
// what its driver has left to do to them (checksums, segments).
func openWire(name string) (int, error) {
	dev, err := netlink.LinkByName(name)
	if err != nil {
		return -1, err
	}
	if err := netlink.SetPromiscOn(dev); err != nil {
		return -1, err
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		return -1, err
	}
	timeout := unix.NsecToTimeval((100 * time.Millisecond).Nanoseconds())
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Attrs().Index}))
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// frame is one on its way.
type frame struct {
	due   time.Time
	bytes []byte
}

// carry brings frames from one socket to another.
func (w *longLine) carry(from, to int) {
	under := make(chan frame, lineLength)
	w.group.Go(func() { // ends with the reading
		for f := range under {
			time.Sleep(time.Until(f.due))
			_, _ = unix.Write(to, f.bytes) // a frame that is lost is lost
		}
	})
	defer close(under)
	buf := make([]byte, 128<<10)
	free := time.Now() // when the line has sent all that waits
	for {
		select {
		case <-w.stop:
			return
		default:
		}
		n, err := unix.Read(from, buf)
		if err != nil {
			continue // nothing within the socket's time-out
		}
		now := time.Now()
		if free.Before(now) {
			free = now
		}
		if w.rate > 0 {
			if free.Sub(now) > lineQueue {
				continue
			}
			free = free.Add(time.Duration(n) * 8 * time.Second / time.Duration(w.rate))
		}
		select {
		case under <- frame{free.Add(w.delay), bytes.Clone(buf[:n])}:
		default: // as a full line does
		}
	}
}
