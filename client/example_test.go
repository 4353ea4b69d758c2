package client_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net/http"

	"golang.org/x/crypto/ssh"

	"github.com/postern-sdp/postern/client"
)

// A program dials a service by its name. The first connection knocks and brings the
// tunnel up, the next ones share it.
func ExampleDialer() {
	stage := newStage() // in place of a real controller and host
	defer stage.close()

	device, err := client.Open(stage.folder) // client.DefaultFolder() is where `postern enroll` put it
	if err != nil {
		log.Fatal(err)
	}
	dialer := device.Dialer(client.DialerConfig{})
	defer dialer.Close()

	conn, err := dialer.Dial(context.Background(), "echo")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "hello")
	answer := make([]byte, 5)
	if _, err := io.ReadFull(conn, answer); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", answer)
	// Output: hello
}

// Requests go to the web server behind a service.
func ExampleDialer_HTTPTransport() {
	stage := newStage() // in place of a real controller and host
	defer stage.close()
	stage.serveHTTP("the wiki")

	device, err := client.Open(stage.folder)
	if err != nil {
		log.Fatal(err)
	}
	dialer := device.Dialer(client.DialerConfig{})
	defer dialer.Close()

	transport := dialer.HTTPTransport()
	defer transport.CloseIdleConnections()
	web := http.Client{Transport: transport}
	response, err := web.Get("http://wiki.postern.internal/")
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", text)
	// Output: the wiki at wiki.postern.internal
}

// An SSH client in a program: no ssh command, no local port.
func ExampleDialer_ssh() {
	stage := newStage() // in place of a real controller and host
	defer stage.close()
	hostKey := stage.serveSSH("open sesame")

	device, err := client.Open(stage.folder)
	if err != nil {
		log.Fatal(err)
	}
	dialer := device.Dialer(client.DialerConfig{})
	defer dialer.Close()

	conn, err := dialer.Dial(context.Background(), "ssh")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	c, channels, requests, err := ssh.NewClientConn(conn, "ssh", &ssh.ClientConfig{
		User:            "me",
		Auth:            []ssh.AuthMethod{ssh.Password("open sesame")},
		HostKeyCallback: ssh.FixedHostKey(hostKey),
	})
	if err != nil {
		log.Fatal(err)
	}
	shell := ssh.NewClient(c, channels, requests)
	defer shell.Close()
	session, err := shell.NewSession()
	if err != nil {
		log.Fatal(err)
	}
	out, err := session.Output("uptime")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s", out)
	// Output: you said: uptime
}

func newSigningKey() crypto.Signer {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return private
}
