// Package service keeps a program running in the background for one user: as a unit
// of systemd's user manager on Linux, as a launchd agent on macOS, as a task at logon
// on Windows. None of them needs an administrator.
//
// The files are made from a [Spec] by pure functions, the same on every system;
// only a [Service] touches the machine.
//
// On Windows it is a task and not a service of the service control manager: one of
// those would run as another account, outside the user's profile that the identity is
// closed up in, or would need the user's password, and an administrator to install it.
package service
