// Package service has `postern up` run in the background: as a unit of the user's
// systemd, an agent of launchd's, or a Windows service.
package service
