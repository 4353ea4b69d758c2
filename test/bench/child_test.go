package bench

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/postern-sdp/postern/client"
)

// A measuring process has to live inside a namespace as a whole: the test binary
// starts itself there with one of these roles.
const (
	roleVariable = "POSTERN_BENCH_ROLE"
	roleAccess   = "access"
	roleKnock    = "knock"
	roleFwknop   = "fwknop"
	roleFlood    = "flood"
)

func TestMain(m *testing.M) {
	role := os.Getenv(roleVariable)
	if role == "" {
		os.Exit(m.Run())
	}
	roles := map[string]func() (any, error){
		roleAccess: measureAccess, roleKnock: measureKnocks, roleFwknop: measureFwknop, roleFlood: flood,
	}
	result, err := roles[role]()
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(result)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func count() int {
	n, _ := strconv.Atoi(os.Getenv("POSTERN_BENCH_COUNT"))
	return max(1, n)
}

// accessTimes are of one access each, in nanoseconds.
type accessTimes struct {
	Grant     []time.Duration // knock sent → grant here: the pinhole is open
	FirstByte []time.Duration // knock sent → first byte of the service through the tunnel
}

// measureAccess knocks, connects and reads one byte, as one program that stays.
func measureAccess() (any, error) {
	folder, err := client.DefaultFolder()
	if err != nil {
		return nil, err
	}
	c, err := client.Open(folder)
	if err != nil {
		return nil, err
	}
	var times accessTimes
	for range 40 { // a device may have 64 sessions at a time
		start := time.Now()
		if _, err := c.Knock(context.Background(), "hello", time.Second); err != nil {
			return nil, err
		}
		times.Grant = append(times.Grant, time.Since(start))
	}
	for range count() {
		took, err := firstByte(c)
		if err != nil {
			return nil, err
		}
		times.FirstByte = append(times.FirstByte, took)
	}
	return times, nil
}

func firstByte(c *client.Client) (took time.Duration, err error) {
	start := time.Now()
	access, err := c.Access(context.Background(), client.AccessConfig{Service: "hello", For: time.Minute})
	if err != nil {
		return 0, err
	}
	defer access.Close()
	conn, err := access.Dial(context.Background())
	if err != nil {
		return 0, err
	}
	_, err = conn.Read(make([]byte, 1))
	took = time.Since(start)
	return took, errors.Join(err, conn.Close())
}

// knockOutcome is of knocks that are each tried once, before any retry.
type knockOutcome struct {
	Sent, First int
	Times       []time.Duration
}

// measureKnocks counts the knocks that are answered before the first retry.
func measureKnocks() (any, error) {
	folder, err := client.DefaultFolder()
	if err != nil {
		return nil, err
	}
	c, err := client.Open(folder)
	if err != nil {
		return nil, err
	}
	const retry = 240 * time.Millisecond // less than the client's first
	var out knockOutcome
	tick := time.NewTicker(20 * time.Millisecond) // of 64 sessions a device, each a second long
	defer tick.Stop()
	for range count() {
		<-tick.C
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), retry)
		_, err := c.Knock(ctx, "hello", time.Second)
		cancel()
		out.Sent++
		if err == nil {
			out.First++
			out.Times = append(out.Times, time.Since(start))
		} else if client.IsDenied(err) {
			return nil, err
		}
	}
	return out, nil
}

// measureFwknop knocks once with fwknop and connects as soon as that works.
func measureFwknop() (any, error) {
	target := os.Getenv("POSTERN_BENCH_TARGET")
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	cmd := exec.Command("fwknop", "-A", "tcp/7000", "-s", "-D", host, "--rc-file", os.Getenv("POSTERN_BENCH_RC"),
		"-n", "bench", "--no-save-args")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("fwknop: %w: %s", err, out)
	}
	sent := time.Since(start)
	for time.Since(start) < 5*time.Second {
		conn, err := net.DialTimeout("tcp", target, 2*time.Millisecond)
		if err == nil {
			return []time.Duration{time.Since(start), sent}, conn.Close()
		}
	}
	return nil, errors.New("fwknop opened nothing within 5 s")
}

// flood sends garbage of a knock's size as fast as one core can, until it is killed
// or the count of seconds is over.
func flood() (any, error) {
	conn, err := net.Dial("udp", os.Getenv("POSTERN_BENCH_TARGET"))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	garbage := make([]byte, 256)
	rand.Read(garbage)
	sent := 0
	start := time.Now()
	for end := start.Add(time.Duration(count()) * time.Second); ; sent++ {
		garbage[0], garbage[1], garbage[2] = byte(sent), byte(sent>>8), byte(sent>>16)
		if _, err := conn.Write(garbage); err != nil && sent == 0 {
			return nil, err
		}
		if sent%1024 == 0 && time.Now().After(end) {
			return float64(sent) / time.Since(start).Seconds(), nil
		}
	}
}
