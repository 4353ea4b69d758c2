package control

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-sdp/postern/internal/atomicfile"
	"github.com/postern-sdp/postern/internal/bootclock"
	"github.com/postern-sdp/postern/spa/key"
)

// Files of an identity's folder, all of mode 0600 in a folder of 0700. The one
// named identityFile is written last: without it there is no identity.
const (
	keyFile         = "key.pem"
	certificateFile = "cert.pem"
	authorityFile   = "ca.pem"
	identityFile    = "identity.json"
	contactFile     = "contact.json" // hints for the next knock: may be missing or damaged

	// ServicesFile is the last list of services, of whoever may want it: may be missing.
	ServicesFile = "services.json"

	identityVersion = 1
	privateFile     = fs.FileMode(0o600)
	privateFolder   = fs.FileMode(0o700)

	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY"

	// offsetWorthStoring is the change of the clock offset that is written down.
	offsetWorthStoring = time.Second
)

type identityText struct {
	Version     int            `json:"version"`
	ID          key.ID         `json:"id"`
	Name        string         `json:"name"`
	Role        Role           `json:"role"`
	KnockSecret string         `json:"knock_secret"`
	Controller  controllerText `json:"controller"`
}

type controllerText struct {
	Name      string               `json:"name"`
	Addresses []string             `json:"addresses"`
	PublicKey key.ControllerPublic `json:"public_key"`
}

type contactText struct {
	Offset Duration       `json:"clock_offset"` // controller's clock minus ours
	Server netip.AddrPort `json:"server"`       // the address that answered
}

// LoadIdentity reads an identity's folder. It is [ErrNotEnrolled] when there is
// none, [ErrWideFolder] or atomicfile.ErrNotPrivate when others could read it,
// [ErrNewer] and [ErrDamaged] when it cannot be used; nothing is changed then. An
// expired certificate is no error here.
func LoadIdentity(folder string) (*Enrolled, error) {
	if err := checkFolder(folder); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no identity in %s", ErrNotEnrolled, folder)
	} else if err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	b, err := atomicfile.ReadPrivate(filepath.Join(folder, identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no identity in %s", ErrNotEnrolled, folder)
	} else if err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	e, err := parseIdentity(b)
	if err != nil {
		return nil, fmt.Errorf("load identity: %s: %w", filepath.Join(folder, identityFile), err)
	}
	e.folder = folder
	if err := e.loadKeys(); err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	e.loadContact()
	return e, nil
}

func parseIdentity(b []byte) (*Enrolled, error) {
	var in identityText
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, ErrDamaged // the cause could quote a secret
	}
	if in.Version > identityVersion {
		return nil, ErrNewer
	}
	secret, err := key.ParseKnock(in.KnockSecret)
	to := in.Controller
	if err != nil || in.Version != identityVersion || in.ID.IsZero() || !in.Role.Valid() ||
		to.Name == "" || len(to.Addresses) == 0 || to.PublicKey.IsZero() {
		return nil, ErrDamaged
	}
	return &Enrolled{
		ID: in.ID, Name: in.Name, Role: in.Role, secret: secret,
		Controller: Controller(in.Controller),
	}, nil
}

// loadKeys reads the PEM files and checks that they belong together.
func (e *Enrolled) loadKeys() error {
	der, err := readPEM(filepath.Join(e.folder, keyFile), pemKey)
	if err != nil {
		return err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der[0])
	private, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return fmt.Errorf("%s: %w", filepath.Join(e.folder, keyFile), ErrDamaged)
	}
	e.signer = func() *ecdsa.PrivateKey { return private }
	if der, err = readPEM(filepath.Join(e.folder, authorityFile), pemCertificate); err != nil {
		return err
	}
	if e.Authority, err = x509.ParseCertificate(der[0]); err != nil {
		return fmt.Errorf("%s: %w: %w", filepath.Join(e.folder, authorityFile), ErrDamaged, err)
	}
	path := filepath.Join(e.folder, certificateFile)
	if der, err = readPEM(path, pemCertificate); err != nil {
		return err
	}
	chain, err := parseChain(der)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", path, ErrDamaged, err)
	}
	// Expiry is judged in use; here only whether the files belong together.
	if err := e.check(chain, chain[0].NotAfter); err != nil {
		return fmt.Errorf("%s: %w: %w", path, ErrDamaged, err)
	}
	e.mu.chain = chain
	return nil
}

func readPEM(path, kind string) ([][]byte, error) {
	b, err := atomicfile.ReadPrivate(path)
	if err != nil {
		return nil, err
	}
	var all [][]byte
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != kind {
			return nil, fmt.Errorf("%s: %w: want only PEM blocks of type %s", path, ErrDamaged, kind)
		}
		all = append(all, block.Bytes)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: %w: no PEM block", path, ErrDamaged)
	}
	return all, nil
}

// SaveIdentity writes a fresh identity into folder, which is made when missing,
// and fails with [ErrEnrolled] when there is one already. After an error the
// folder holds nothing that it did not hold before.
func SaveIdentity(folder string, e *Enrolled) (err error) {
	made, err := makeFolder(folder)
	if err != nil {
		return fmt.Errorf("save identity: %w", err)
	}
	var written []string
	defer func() {
		if err == nil {
			return
		}
		for _, path := range written {
			os.Remove(path)
		}
		if made {
			os.Remove(folder) // only when empty
		}
	}()
	if HasIdentity(folder) {
		return fmt.Errorf("%w: there is an identity in %s", ErrEnrolled, folder)
	}
	files, err := e.files()
	if err != nil {
		return fmt.Errorf("save identity: %w", err)
	}
	for _, f := range files {
		path := filepath.Join(folder, f.name)
		written = append(written, path)
		if err := atomicfile.Write(path, f.data, privateFile); err != nil {
			return fmt.Errorf("save identity: %w", err)
		}
	}
	e.folder = folder
	return nil
}

// HasIdentity reports whether there is an identity in folder, be it a usable one or not.
func HasIdentity(folder string) bool {
	_, err := os.Lstat(filepath.Join(folder, identityFile))
	return err == nil
}

// RemoveIdentity deletes the identity in folder, and the folder if nothing else is in
// it. Whenever it is interrupted, there is either all of the identity or none.
func RemoveIdentity(folder string) error {
	for _, name := range []string{
		identityFile, keyFile, certificateFile, authorityFile, contactFile, ServicesFile,
	} {
		if err := os.Remove(filepath.Join(folder, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove identity: %w", err)
		}
	}
	_ = os.Remove(folder) // other things in it are none of ours
	return nil
}

type namedFile struct {
	name string
	data []byte
}

// files returns what SaveIdentity writes, in that order.
func (e *Enrolled) files() ([]namedFile, error) {
	private, err := x509.MarshalPKCS8PrivateKey(e.signer())
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	identity, err := json.MarshalIndent(identityText{
		Version: identityVersion, ID: e.ID, Name: e.Name, Role: e.Role,
		KnockSecret: e.secret.Reveal(), Controller: controllerText(e.Controller),
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode identity: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return []namedFile{
		{keyFile, pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: private})},
		{authorityFile, encodeChain([]*x509.Certificate{e.Authority})},
		{certificateFile, encodeChain(e.mu.chain)},
		{contactFile, e.contactLocked()},
		{identityFile, append(identity, '\n')},
	}, nil
}

func encodeChain(chain []*x509.Certificate) []byte {
	var out []byte
	for _, c := range chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: c.Raw})...)
	}
	return out
}

// UpdateCertificate replaces the identity's certificate chain, in the folder and
// then for the next connections. The caller has checked it.
func (e *Enrolled) UpdateCertificate(chain []*x509.Certificate) error {
	path := filepath.Join(e.folder, certificateFile)
	if err := atomicfile.Write(path, encodeChain(chain), privateFile); err != nil {
		return fmt.Errorf("store certificate: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.chain = chain
	return nil
}

// learn keeps what an answer told, and writes it down when it changed. That it
// could not be written costs a later knock a retry, so it is no error.
func (e *Enrolled) learn(a Answer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.boot = time.Now().Round(0).Add(a.Offset - bootclock.Now())
	if (a.Offset-e.mu.offset).Abs() < offsetWorthStoring && a.Server == e.mu.server {
		return
	}
	e.mu.offset, e.mu.server = a.Offset, a.Server
	if e.folder != "" {
		_ = atomicfile.Write(filepath.Join(e.folder, contactFile), e.contactLocked(), privateFile)
	}
}

func (e *Enrolled) contactLocked() []byte {
	b, err := json.Marshal(contactText{Duration(e.mu.offset), e.mu.server})
	if err != nil {
		return nil // cannot be: both have text forms
	}
	return append(b, '\n')
}

func (e *Enrolled) loadContact() {
	var in contactText
	b, err := atomicfile.ReadPrivate(filepath.Join(e.folder, contactFile))
	if err == nil && json.Unmarshal(b, &in) == nil {
		e.mu.offset, e.mu.server = time.Duration(in.Offset), in.Server
	}
}

// makeFolder makes a private folder, or checks one that is there.
func makeFolder(folder string) (made bool, err error) {
	if err := os.MkdirAll(filepath.Dir(folder), privateFolder); err != nil {
		return false, err
	}
	err = mkdirPrivate(folder)
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	return false, checkFolder(folder)
}
