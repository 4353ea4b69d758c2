// Package key has one type for each role a key plays in Postern.
//
// Secrets print as nothing useful: no formatting verb, logger or encoder shows
// them, and they leave this package only through methods named Reveal. They are
// compared in constant time, and a secret of one role does not parse as another.
package key
