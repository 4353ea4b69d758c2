package e2e

import "testing"

func TestUpKeepsTenTunnelsInTwentyFiveMegabytes(t *testing.T) {
	l := newLab(t)
	if err := l.StartSystem(t.Context()); err != nil {
		t.Fatal(err)
	}
	resident, err := l.UpResident(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f MB resident", float64(resident)/1e6)
	if resident > 25e6 {
		t.Errorf("%d bytes", resident)
	}
}
