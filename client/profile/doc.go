// Package profile keeps several identities of one person beside each other, each
// under a name, and which of them is used.
//
// The profile named default is the configuration folder itself, so that whoever
// has only one need not know of profiles. The others are folders in profiles/, and
// the file profile holds the name of the one in use when it is not the default.
package profile
