// Package netchange tells when the machine's network has changed: another Wi-Fi, a
// new address, a route that came or went.
package netchange
