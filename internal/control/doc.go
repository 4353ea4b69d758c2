// Package control holds what the controller, the host agents and the clients say
// to each other on the control plane: HTTP/3 with JSON bodies over mutual TLS.
// It has the messages and the client; the server is controller/api.
package control
