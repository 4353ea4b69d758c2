package lastgood_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/postern-sdp/postern/internal/lastgood"
)

// TestANoteIsFoundByTheUnitAndByAnAdministrator, who runs no unit.
func TestANoteIsFoundByTheUnitAndByAnAdministrator(t *testing.T) {
	folder := t.TempDir()
	note := lastgood.Note{State: "/somewhere", Socket: "/sock", Backend: "none", Table: "gatehouse"}
	t.Setenv("STATE_DIRECTORY", folder)
	if err := lastgood.Write(note); err != nil {
		t.Fatal(err)
	}
	if got, ok := lastgood.Read("/nowhere"); !ok || got != note {
		t.Errorf("the unit: %+v, %t", got, ok)
	}
	t.Setenv("STATE_DIRECTORY", "")
	if err := lastgood.Write(lastgood.Note{Table: "another"}); err != nil {
		t.Fatal(err)
	}
	if got, ok := lastgood.Read(folder); !ok || got != note {
		t.Errorf("an administrator: %+v, %t", got, ok)
	}
}

func TestANoteThatCannotBeUsedIsNone(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", "")
	folder := t.TempDir()
	for _, text := range []string{"", "{", `{"version":2,"backend":"none","table":"x"}`} {
		if err := os.WriteFile(filepath.Join(folder, "last-good.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, ok := lastgood.Read(folder); ok {
			t.Errorf("%q: %+v", text, got)
		}
	}
	if got, ok := lastgood.Read(filepath.Join(folder, "nothing")); ok {
		t.Errorf("without a file: %+v", got)
	}
}
