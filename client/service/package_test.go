package service

import (
	"os"
	"testing"
)

// The packages' unit is the one that the command writes, for the packages' program.
func TestThePackagesUnitIsOurs(t *testing.T) {
	want, err := Definition{Program: "/usr/bin/postern", Args: []string{"up"}}.Systemd()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../configs/systemd/user/postern.service")
	if err != nil || string(got) != want {
		t.Errorf("configs/systemd/user/postern.service: %v\n%s\nwant\n%s", err, got, want)
	}
}
