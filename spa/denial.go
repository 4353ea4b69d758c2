package spa

import "unicode/utf8"

const denialSize = 1 + 1 + maxText // code, length, text

// Code is the reason of a denial.
type Code uint8

// The codes.
const (
	CodeNotGranted     Code = 1 // no grant for this service, or no such service
	CodeHostOffline    Code = 2 // the service's host is not connected or did not answer
	CodeBusy           Code = 3 // the controller is overloaded
	CodeUnknownSession Code = 4 // no such session of this device
	CodeInternal       Code = 5 // the controller's log knows more
	CodeClosed         Code = 6 // not a denial: the session is ended, as asked
)

// Denial refuses, with a reason for people. It goes to senders of valid knocks only.
type Denial struct {
	Code Code
	Text string
}

// writeDenial writes a denial's part of a reply.
//
//	code 1 | text length 1 | text 120
func writeDenial(w *writer, d *Denial) error {
	if d.Code == 0 || len(d.Text) > maxText || !utf8.ValidString(d.Text) {
		return ErrText
	}
	w.byte(byte(d.Code))
	w.byte(byte(len(d.Text)))
	w.bytes([]byte(d.Text), maxText)
	return nil
}

func readDenial(r *reader) (*Denial, bool) {
	d := &Denial{Code: Code(r.byte())}
	var ok bool
	d.Text, ok = r.text(maxText)
	return d, ok && d.Code != 0 && utf8.ValidString(d.Text)
}
