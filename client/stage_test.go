package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/control/controltest"
)

// stage is what an example stands on: a controller, a host with a service, and an
// enrolled device whose identity is in folder.
type stage struct {
	testing.TB
	folder     string
	controller *controltest.Controller
	host       *controltest.Host
	undo       []func()
}

func newStage() *stage {
	s := &stage{}
	dir, err := os.MkdirTemp("", "postern-example")
	s.check(err)
	s.Cleanup(func() { os.RemoveAll(dir) })
	s.folder = filepath.Join(dir, "identity")
	s.controller = controltest.New(s)
	s.host = s.controller.AddHost()
	token, err := s.controller.Token(control.RoleClient).Encode()
	s.check(err)
	_, err = client.Enroll(context.Background(), token, s.folder, "example")
	s.check(err)
	return s
}

// Helper implements [testing.TB], as the next ones do.
func (s *stage) Helper()                           {}
func (s *stage) Cleanup(f func())                  { s.undo = append(s.undo, f) }
func (s *stage) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }
func (s *stage) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (s *stage) Error(args ...any)                 { panic(fmt.Sprint(args...)) }
func (s *stage) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func (s *stage) check(err error) {
	if err != nil {
		panic(err)
	}
}

// close takes the stage down.
func (s *stage) close() {
	for i := len(s.undo) - 1; i >= 0; i-- {
		s.undo[i]()
	}
}

// serveHTTP makes a web server the service.
func (s *stage) serveHTTP(text string) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, text+" at "+r.Host)
	}))
	s.Cleanup(server.Close)
	s.host.SetTarget(server.Listener.Addr().String())
}

// serveSSH makes an SSH server the service; it takes the password and answers each
// command with its own words. It returns its host key.
func (s *stage) serveSSH(password string) ssh.PublicKey {
	signer, err := ssh.NewSignerFromKey(newSigningKey())
	s.check(err)
	config := &ssh.ServerConfig{
		PasswordCallback: func(_ ssh.ConnMetadata, given []byte) (*ssh.Permissions, error) {
			if string(given) != password {
				return nil, errors.New("wrong password")
			}
			return nil, nil
		},
	}
	config.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	s.check(err)
	s.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serveSSH(conn, config)
		}
	}()
	s.host.SetTarget(l.Addr().String())
	return signer.PublicKey()
}

func serveSSH(conn net.Conn, config *ssh.ServerConfig) {
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for wanted := range channels {
		channel, requests, err := wanted.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			r.Reply(true, nil)
			if r.Type == "exec" {
				var command struct{ Text string }
				ssh.Unmarshal(r.Payload, &command)
				fmt.Fprintf(channel, "you said: %s\n", command.Text)
				channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{}))
				channel.Close()
			}
		}
	}
}
