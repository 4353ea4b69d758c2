// Package resolver tells the system where services' names are answered: in a drop-in
// for its resolver, or in the hosts file.
package resolver
