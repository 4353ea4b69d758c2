package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa"
)

const (
	emergencyCopies = 3                      // of one datagram; the host takes one
	emergencyApart  = 150 * time.Millisecond // so that equal ones are not merged on their way
	emergencyProbe  = 400 * time.Millisecond // one attempt to connect
)

// Errors of emergencies.
var (
	ErrEmergencyKey = control.ErrEmergencyKey
	// ErrStillShut: the service's port did not open. A host never says why.
	ErrStillShut = errors.New("the port did not open")
	// ErrNotSent: the knock left this machine to none of the addresses.
	ErrNotSent = errors.New("the emergency knock could not be sent")
)

// EmergencyKey is a parsed emergency key. It prints no secret.
type EmergencyKey struct{ key control.EmergencyKey }

// ParseEmergencyKey reads the text that postern-host emergency create showed.
func ParseEmergencyKey(text string) (EmergencyKey, error) {
	k, err := control.ParseEmergencyKey(text)
	return EmergencyKey{k}, err
}

// EmergencyInfo is what an emergency key is for.
type EmergencyInfo struct {
	ID        string           `json:"id"`
	Host      string           `json:"host"`
	Name      string           `json:"name"`
	Addresses []string         `json:"addresses"`
	Service   string           `json:"service"`
	Port      string           `json:"port"`
	For       control.Duration `json:"for"`
	Uses      uint64           `json:"uses"`
}

// Info returns what the key is for.
func (k EmergencyKey) Info() EmergencyInfo {
	return EmergencyInfo{
		ID: k.key.ID.String(), Host: k.key.Host.String(), Name: k.key.Name,
		Addresses: append([]string(nil), k.key.Addresses...), Service: k.key.Service,
		Port: k.key.Port.String(), For: control.Duration(k.key.For), Uses: k.key.Uses,
	}
}

// IsTCP reports whether it can be seen from here that the port opened.
func (k EmergencyKey) IsTCP() bool { return k.key.Port.Transport == control.TransportTCP }

// Port returns the number of the port that the key opens.
func (k EmergencyKey) Port() uint16 { return k.key.Port.Port }

// Use knocks with one counter, from 1 to the key's uses, at addresses (host:port), or
// at the key's own when there is none. The host takes each counter once and burns those
// below it. For a TCP service Use then tries to connect until the port is open, and
// returns its host:port; after wait it is [ErrStillShut]. For UDP it returns at once with
// an empty address. No key of this device, and no controller, has a part in it.
func (k EmergencyKey) Use(ctx context.Context, counter uint64, addresses []string,
	wait time.Duration) (open string, err error) {
	if len(addresses) == 0 {
		addresses = k.key.Addresses
	}
	if counter > k.key.Uses {
		return "", fmt.Errorf("counter %d: %w: the key has %d uses", counter, spa.ErrCounter, k.key.Uses)
	}
	packet, err := spa.SealEmergency(k.key.Secret, k.key.Host,
		spa.EmergencyKnock{Key: k.key.ID, Counter: counter, Service: k.key.Service})
	if err != nil {
		return "", fmt.Errorf("make emergency knock: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, ErrStillShut)
	defer cancel()
	sent, err := sendEmergency(ctx, packet, addresses)
	if len(sent) == 0 {
		return "", errors.Join(ErrNotSent, err)
	}
	if !k.IsTCP() {
		return "", nil
	}
	return probe(ctx, sent, k.key.Port.Port)
}

// sendEmergency sends copies of packet and returns the addresses that it left for.
func sendEmergency(ctx context.Context, packet []byte, addresses []string) ([]string, error) {
	var conns []net.Conn
	var sent []string
	var faults []error
	for _, a := range addresses {
		c, err := (&net.Dialer{}).DialContext(ctx, "udp", a)
		if err == nil {
			defer c.Close()
			_, err = c.Write(packet)
		}
		if err != nil {
			faults = append(faults, err)
			continue
		}
		conns, sent = append(conns, c), append(sent, a)
	}
	for range emergencyCopies - 1 {
		if !rest(ctx, emergencyApart) {
			break
		}
		for _, c := range conns {
			_, _ = c.Write(packet) // the first one left
		}
	}
	return sent, errors.Join(faults...)
}

// probe connects to the port at each address until one answers or ctx ends.
func probe(ctx context.Context, addresses []string, port uint16) (string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	open := make(chan string, len(addresses))
	var probing sync.WaitGroup
	for _, a := range addresses {
		host, _, err := net.SplitHostPort(a)
		if err != nil {
			continue
		}
		target := net.JoinHostPort(host, strconv.Itoa(int(port)))
		probing.Go(func() {
			for ctx.Err() == nil {
				if connects(ctx, target) {
					open <- target
					return
				}
				rest(ctx, emergencyApart)
			}
		})
	}
	defer probing.Wait()
	defer cancel(nil)
	select {
	case target := <-open:
		return target, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func connects(ctx context.Context, target string) bool {
	c, err := (&net.Dialer{Timeout: emergencyProbe}).DialContext(ctx, "tcp", target)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// rest waits, and reports whether ctx lasted.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
