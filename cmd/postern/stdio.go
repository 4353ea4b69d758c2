package main

import (
	"io"
	"sync"
)

// stdio makes one duplex connection of two one-way ones. Standard input cannot be
// woken from a read, so it is read into a pipe by a goroutine that may outlive the
// connection: it ends with the program.
type stdio struct {
	in   *io.PipeReader
	out  io.Writer
	once sync.Once
}

func newStdio(in io.Reader, out io.Writer) *stdio {
	r, w := io.Pipe()
	go func() {
		buffer := make([]byte, 64<<10)
		_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{in}, buffer)
		w.CloseWithError(err) // nil is io.EOF
	}()
	return &stdio{in: r, out: out}
}

// Read implements [io.Reader].
func (s *stdio) Read(b []byte) (int, error) { return s.in.Read(b) }

// Write implements [io.Writer].
func (s *stdio) Write(b []byte) (int, error) { return s.out.Write(b) }

// CloseWrite shows the end of the service's bytes to whoever reads our output.
func (s *stdio) CloseWrite() error {
	var err error
	s.once.Do(func() {
		if c, ok := s.out.(io.Closer); ok {
			err = c.Close()
		}
	})
	return err
}

// Close ends both directions.
func (s *stdio) Close() error {
	s.in.Close()
	return s.CloseWrite()
}
