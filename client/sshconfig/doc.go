// Package sshconfig tells OpenSSH how to reach services: one file of Postern's own,
// and one line in the person's configuration that includes it. Nothing else of that
// configuration is touched, and without the line it is, byte for byte, what it was.
package sshconfig
