package host

import "errors"

// Errors that callers tell apart.
var (
	ErrNotRunning   = errors.New("no agent answers here")
	ErrRunning      = errors.New("an agent is running already")
	ErrState        = errors.New("the state file is damaged")
	ErrStateVersion = errors.New("the state file was written by a newer version")
	ErrBind         = errors.New("the capability CAP_NET_BIND_SERVICE is missing for a port below 1024: " +
		"run as root, give it with systemd's AmbientCapabilities, or listen on a higher port")
	ErrEmergencyState = errors.New("the file of emergency keys is damaged; it is left as it is: move " +
		"it away and make new keys")
	ErrEmergencyVersion = errors.New("the file of emergency keys was written by a newer version; it is " +
		"left as it is: run that version")
	ErrEmergencyMany = errors.New("this host has 32 emergency keys already: revoke one")
	ErrNoEmergency   = errors.New("no such emergency key or opening")
	ErrNotClosed     = errors.New("the agent has not closed it yet; its log tells why")
	ErrAuditLine     = errors.New("not a whole line of the audit")
	ErrAuditHash     = errors.New("the line was changed: its hash is another")
	ErrAuditGap      = errors.New("the line does not follow the one before: some are missing or were added")
	ErrAuditShort    = errors.New("records are missing at the end")

	errSpent      = errors.New("the counter is used")
	errStopped    = errors.New("the agent is shutting down")
	errNoSession  = errors.New("no such session")
	errExpired    = errors.New("the session is over")
	errNotYours   = errors.New("the certificate is not that of the session's device")
	errRole       = errors.New("the certificate is not a client's")
	errTransport  = errors.New("the service speaks another protocol")
	errReach      = errors.New("not to be reached from this host")
	errMismatch   = errors.New("a session of this id is for another device or service")
	errOrder      = errors.New("the order is not usable")
	errProtocol   = errors.New("the controller did not begin with the list of sessions")
	errEmptyOrder = errors.New("the order says nothing this version knows")
	errSlow       = errors.New("the controller does not read what it is sent")
	errRenewed    = errors.New("the certificate was over and has been renewed")
	errUnusable   = errors.New("the state of this machine cannot be used")
)
