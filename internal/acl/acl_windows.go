package acl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"unsafe"

	"golang.org/x/sys/windows"
)

// ErrWide says that other accounts may read or change something.
var ErrWide = errors.New("other accounts have access to it")

const (
	// harmless are the rights that nobody learns a secret by: to ask for attributes and
	// for the access list, and to wait.
	harmless = windows.FILE_READ_ATTRIBUTES | windows.FILE_READ_EA | windows.READ_CONTROL | windows.SYNCHRONIZE

	// Kinds of entries that take rights away (winnt.h).
	accessDenied               = 0x01
	accessDeniedObject         = 0x06
	accessDeniedCallback       = 0x0a
	accessDeniedCallbackObject = 0x0c
)

// MakeFolder makes a folder that this process's user, the system and administrators
// have access to, as to all that is made in it, whatever the folder above allows. It
// is [fs.ErrExist] when there is one.
func MakeFolder(path string) error {
	descriptor, err := private("OICI") // files and folders in it inherit
	if err != nil {
		return fmt.Errorf("make a private folder: %w", err)
	}
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return fmt.Errorf("make a private folder: %w", err)
	}
	attributes := windows.SecurityAttributes{SecurityDescriptor: descriptor}
	attributes.Length = uint32(unsafe.Sizeof(attributes))
	if err := windows.CreateDirectory(name, &attributes); err != nil {
		return &fs.PathError{Op: "mkdir", Path: path, Err: err}
	}
	return nil
}

// ProtectFile takes the file at path, which is this process's user's, from all others
// but the system and administrators. On a file system without access lists, such as a
// stick's, it does nothing.
func ProtectFile(path string) error {
	descriptor, err := private("")
	if err != nil {
		return fmt.Errorf("make a file private: %w", err)
	}
	switch err := set(path, descriptor); {
	case err == nil, errors.Is(err, windows.ERROR_INVALID_FUNCTION), errors.Is(err, windows.ERROR_NOT_SUPPORTED):
		return nil
	default:
		return &fs.PathError{Op: "make private", Path: path, Err: err}
	}
}

// set replaces the access list of path by that of the descriptor, as it is: nothing is
// added that the folder above would pass on.
func set(path string, descriptor *windows.SECURITY_DESCRIPTOR) error {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return err
	}
	h, err := windows.CreateFile(name, windows.WRITE_DAC,
		windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE|windows.FILE_SHARE_DELETE, nil,
		windows.OPEN_EXISTING, windows.FILE_FLAG_BACKUP_SEMANTICS|windows.FILE_FLAG_OPEN_REPARSE_POINT, 0)
	if err != nil {
		return err
	}
	defer windows.CloseHandle(h)
	return windows.SetKernelObjectSecurity(h,
		windows.DACL_SECURITY_INFORMATION|windows.PROTECTED_DACL_SECURITY_INFORMATION, descriptor)
}

// private is full access for the user, the system and administrators, protected from
// what the folder above would add, and inherited as the flags say.
func private(flags string) (*windows.SECURITY_DESCRIPTOR, error) {
	user, err := currentUser()
	if err != nil {
		return nil, err
	}
	list := "D:P"
	for _, who := range []string{user.String(), "SY", "BA"} {
		list += "(A;" + flags + ";FA;;;" + who + ")"
	}
	return windows.SecurityDescriptorFromString(list)
}

// CheckFolder is [ErrWide] when others may look into the folder, change it, or would
// have access to what is made in it.
func CheckFolder(path string) error {
	descriptor, err := windows.GetNamedSecurityInfo(path, windows.SE_FILE_OBJECT,
		windows.OWNER_SECURITY_INFORMATION|windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return &fs.PathError{Op: "read the access list of", Path: path, Err: err}
	}
	return check(descriptor)
}

// CheckFile is [ErrWide] when others may read or change the open file.
func CheckFile(f *os.File) error {
	descriptor, err := windows.GetSecurityInfo(windows.Handle(f.Fd()), windows.SE_FILE_OBJECT,
		windows.OWNER_SECURITY_INFORMATION|windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return &fs.PathError{Op: "read the access list of", Path: f.Name(), Err: err}
	}
	return check(descriptor)
}

// check fails closed: an entry that it does not know counts as one for others.
func check(descriptor *windows.SECURITY_DESCRIPTOR) error {
	user, err := currentUser()
	if err != nil {
		return err
	}
	owner, _, err := descriptor.Owner()
	if err != nil {
		return fmt.Errorf("read the owner: %w", err)
	}
	if !trusted(owner, user) {
		return fmt.Errorf("%w: it belongs to %s", ErrWide, owner)
	}
	list, _, err := descriptor.DACL()
	if errors.Is(err, windows.ERROR_OBJECT_NOT_FOUND) || err == nil && list == nil {
		return fmt.Errorf("%w: there is no access list", ErrWide)
	} else if err != nil {
		return fmt.Errorf("read the access list: %w", err)
	}
	for i := range uint32(list.AceCount) {
		var entry *windows.ACCESS_ALLOWED_ACE
		if err := windows.GetAce(list, i, &entry); err != nil {
			return fmt.Errorf("read the access list: %w", err)
		}
		switch entry.Header.AceType {
		case accessDenied, accessDeniedObject, accessDeniedCallback, accessDeniedCallbackObject:
			continue
		case windows.ACCESS_ALLOWED_ACE_TYPE:
		default:
			return fmt.Errorf("%w: its access list has an entry of kind %d", ErrWide, entry.Header.AceType)
		}
		who := (*windows.SID)(unsafe.Pointer(&entry.SidStart))
		if entry.Mask&^harmless != 0 && !trusted(who, user) {
			return fmt.Errorf("%w: %s has", ErrWide, who)
		}
	}
	return nil
}

// trusted reports whether an account may do all to the user's files: it is the user,
// the system, an administrator, or stands for the owner, who is one of these.
func trusted(who, user *windows.SID) bool {
	return who.Equals(user) || who.IsWellKnown(windows.WinLocalSystemSid) ||
		who.IsWellKnown(windows.WinBuiltinAdministratorsSid) ||
		who.IsWellKnown(windows.WinCreatorOwnerSid) || who.IsWellKnown(windows.WinCreatorOwnerRightsSid)
}

func currentUser() (*windows.SID, error) {
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return nil, fmt.Errorf("find this process's user: %w", err)
	}
	return user.User.Sid, nil
}
