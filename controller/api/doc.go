// Package api serves the controller's two interfaces: the control API for hosts
// and clients, HTTP/3 over mutual TLS behind the control port's gate ([Server]),
// and the administrator's, HTTP/1.1 over a unix socket ([AdminServer], with its
// client [Admin]). It decides nothing about access itself: who is let in and
// what is answered is the [Broker]'s.
package api
