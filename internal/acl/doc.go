// Package acl keeps folders and files for one user by the access lists of Windows, as
// modes do on other systems. It is empty there.
package acl
