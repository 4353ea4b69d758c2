package control

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

const (
	emergencyPrefix   = "postern-emergency:"
	emergencyVersion  = 1
	emergencyChecksum = 4    // bytes, of a SHA-256
	maxEmergencyText  = 4096 // characters
	maxServiceName    = 63   // bytes, as in a knock

	// MaxEmergencyFor bounds how long one use of an emergency key opens its port.
	MaxEmergencyFor = 24 * time.Hour
)

// Errors of emergency keys. None quotes the key: it is a secret.
var (
	ErrEmergencyKey     = errors.New("not an emergency key: copy it whole, from postern-emergency: to its end")
	ErrEmergencyVersion = errors.New("the emergency key is of a newer version: update this program")
	ErrEmergencyLong    = errors.New("the host's addresses are too long for an emergency key")
	ErrPort             = errors.New("a port is of the form tcp/22 or udp/53")
)

// EmergencyKey is what the owner of an emergency key holds, on paper or on a stick:
// with it alone, one service of one host is reached when no controller is about.
type EmergencyKey struct {
	Host      key.ID
	Name      string   // the host's
	Addresses []string // host:port of the host's tunnel end
	ID        key.ID
	Service   string
	Port      ServicePort
	For       time.Duration // how long one use opens the port
	Uses      uint64
	Secret    key.Emergency
}

// ServicePort is a port of a host's own.
type ServicePort struct {
	Transport Transport
	Port      uint16
}

// ParseServicePort reads the form that String writes.
func ParseServicePort(text string) (ServicePort, error) {
	transport, number, _ := strings.Cut(text, "/")
	n, err := strconv.ParseUint(number, 10, 16)
	p := ServicePort{Transport(transport), uint16(n)}
	if err != nil || !p.valid() || p.String() != text {
		return ServicePort{}, fmt.Errorf("%w, not %q", ErrPort, text)
	}
	return p, nil
}

func (p ServicePort) valid() bool {
	return p.Port != 0 && (p.Transport == TransportTCP || p.Transport == TransportUDP)
}

// String returns the port as tcp/22.
func (p ServicePort) String() string { return fmt.Sprintf("%s/%d", p.Transport, p.Port) }

// MarshalText implements [encoding.TextMarshaler].
func (p ServicePort) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (p *ServicePort) UnmarshalText(text []byte) error {
	parsed, err := ParseServicePort(string(text))
	if err != nil {
		return err
	}
	*p = parsed
	return nil
}

// emergencyText is the form under the base64url.
type emergencyText struct {
	Version   int         `json:"v"`
	Host      key.ID      `json:"h"`
	Name      string      `json:"m"`
	Addresses []string    `json:"a"`
	ID        key.ID      `json:"i"`
	Service   string      `json:"n"`
	Port      ServicePort `json:"p"`
	For       int64       `json:"f"` // seconds
	Uses      uint64      `json:"u"`
	Secret    []byte      `json:"s"`
}

// Encode returns the key as one line of text.
func (k EmergencyKey) Encode() (string, error) {
	if err := k.Validate(); err != nil {
		return "", fmt.Errorf("encode emergency key: %w", err)
	}
	b, err := json.Marshal(emergencyText{
		Version: emergencyVersion, Host: k.Host, Name: k.Name, Addresses: k.Addresses, ID: k.ID,
		Service: k.Service, Port: k.Port, For: int64(k.For / time.Second), Uses: k.Uses,
		Secret: k.Secret.RevealBytes(),
	})
	if err != nil {
		return "", fmt.Errorf("encode emergency key: %w", err)
	}
	sum := sha256.Sum256(b)
	text := emergencyPrefix + base64.RawURLEncoding.EncodeToString(append(b, sum[:emergencyChecksum]...))
	if len(text) > maxEmergencyText {
		return "", fmt.Errorf("encode emergency key: %w", ErrEmergencyLong)
	}
	return text, nil
}

// ParseEmergencyKey reads what Encode wrote, with white space around it. A key that
// was copied with an error is [ErrEmergencyKey].
func ParseEmergencyKey(text string) (EmergencyKey, error) {
	text = strings.TrimSpace(text)
	body, ok := strings.CutPrefix(text, emergencyPrefix)
	if !ok || len(text) > maxEmergencyText {
		return EmergencyKey{}, ErrEmergencyKey
	}
	raw, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil || len(raw) < emergencyChecksum {
		return EmergencyKey{}, ErrEmergencyKey
	}
	raw, sum := raw[:len(raw)-emergencyChecksum], raw[len(raw)-emergencyChecksum:]
	want := sha256.Sum256(raw)
	var in emergencyText
	if subtle.ConstantTimeCompare(sum, want[:emergencyChecksum]) != 1 || json.Unmarshal(raw, &in) != nil {
		return EmergencyKey{}, ErrEmergencyKey
	}
	if in.Version > emergencyVersion {
		return EmergencyKey{}, ErrEmergencyVersion
	}
	secret, err := key.EmergencyFromBytes(in.Secret)
	if err != nil || in.Version != emergencyVersion ||
		in.For < 1 || in.For > int64(MaxEmergencyFor/time.Second) {
		return EmergencyKey{}, ErrEmergencyKey
	}
	k := EmergencyKey{
		Host: in.Host, Name: in.Name, Addresses: in.Addresses, ID: in.ID, Service: in.Service,
		Port: in.Port, For: time.Duration(in.For) * time.Second, Uses: in.Uses, Secret: secret,
	}
	if k.Validate() != nil {
		return EmergencyKey{}, ErrEmergencyKey
	}
	return k, nil
}

// Validate reports what is wrong with k, each fault by its name.
func (k EmergencyKey) Validate() error {
	var faults []error
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	fault(k.Host.IsZero() || k.ID.IsZero() || k.Secret.IsZero(), "no host, id or secret")
	fault(len(k.Name) > maxController || !plain(k.Name), "name: letters, digits and -._ only")
	fault(k.Service == "" || len(k.Service) > maxServiceName || !plain(k.Service),
		"service: 1 to %d letters, digits and -._", maxServiceName)
	fault(!k.Port.valid(), "port: %w", ErrPort)
	fault(k.For < time.Second || k.For > MaxEmergencyFor || k.For%time.Second != 0,
		"for: want whole seconds, 1s to %s", MaxEmergencyFor)
	fault(k.Uses < 1 || k.Uses > spa.MaxEmergencyCounter, "uses: want 1 to %d", spa.MaxEmergencyCounter)
	fault(len(k.Addresses) == 0 || len(k.Addresses) > maxAddresses, "addresses: want 1 to %d", maxAddresses)
	for _, a := range k.Addresses {
		host, port, err := net.SplitHostPort(a)
		n, errPort := strconv.ParseUint(port, 10, 16)
		fault(err != nil || errPort != nil || n == 0 || host == "" || len(a) > maxAddress || !plain(a),
			"address %q: want host:port", a)
	}
	return errors.Join(faults...)
}
