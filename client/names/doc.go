// Package names gives services names and addresses on this machine that stay the
// same: db.postern.internal is the same loopback address today and tomorrow, here and
// on a colleague's machine. It has the small DNS server that tells them.
package names
