package qrcode

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// theme is a terminal's own colours, for text without an escape sequence.
type theme struct{ ink, paper color.Gray }

var (
	black, white  = color.Gray{0x10}, color.Gray{0xf0}
	darkTerminal  = theme{ink: white, paper: black}
	lightTerminal = theme{ink: black, paper: white}
)

// screen shows text as a terminal does, each half of a character as 4 × 4 pixels.
func screen(t *testing.T, text string, own theme) image.Image {
	t.Helper()
	const half, margin = 4, 40
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	img := image.NewGray(image.Rect(0, 0, 80*half+2*margin, len(lines)*2*half+2*margin))
	for i := range img.Pix {
		img.Pix[i] = own.paper.Y
	}
	for row, line := range lines {
		now, column := own, 0
		for line != "" {
			if sequence, ok := strings.CutPrefix(line, "\x1b["); ok {
				codes, rest, _ := strings.Cut(sequence, "m")
				now, line = selected(t, codes, own), rest
				continue
			}
			r, n := utf8.DecodeRuneInString(line)
			line = line[n:]
			if !strings.ContainsRune("█▀▄ ", r) {
				t.Fatalf("%q is not for this terminal", r)
			}
			for y := range 2 * half {
				c := now.paper
				if r == '█' || r == '▀' && y < half || r == '▄' && y >= half {
					c = now.ink
				}
				for x := range half {
					img.SetGray(margin+column*half+x, margin+row*2*half+y, c)
				}
			}
			column++
		}
	}
	return img
}

// selected are the colours after an escape sequence: 231 of the palette is white
// in every theme, and 16 black.
func selected(t *testing.T, codes string, own theme) theme {
	t.Helper()
	if codes == "0" {
		return own
	}
	palette := map[int]color.Gray{16: {0}, 231: {255}}
	var ink, paper int
	if n, err := fmt.Sscanf(codes, "38;5;%d;48;5;%d", &ink, &paper); n != 2 || palette[ink] == palette[paper] {
		t.Fatalf("%q selects no two colours: %v", codes, err)
	}
	return theme{palette[ink], palette[paper]}
}

// read is what a reader of QR codes, zbar, finds in the picture.
func read(t *testing.T, img image.Image) (string, error) {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "code.png")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "zbarimg", "--raw", "-q", "--nodbus", path).Output()
	return strings.TrimSuffix(string(out), "\n"), err
}

func TestAReaderReadsWhatIsDrawn(t *testing.T) {
	for _, text := range []string{
		"postern://gate.example/" + strings.Repeat("aB3-_x9Q", 21), "HELLO", strings.Repeat("long ", 60),
	} {
		for name, c := range map[string]struct {
			colours bool
			theme
		}{
			"colours, dark terminal":    {true, darkTerminal},
			"colours, light terminal":   {true, lightTerminal},
			"no colours, dark terminal": {false, darkTerminal},
		} {
			drawn, err := Draw(text, c.colours)
			if err != nil {
				t.Fatal(err)
			}
			got, err := read(t, screen(t, drawn, c.theme))
			if err != nil || got != text {
				t.Errorf("%s: read %q, %v; want %q", name, got, err, text)
			}
		}
	}
}

func TestTheQuietZoneIsThere(t *testing.T) {
	drawn, err := Draw("x", false)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(drawn, "\n"), "\n")
	if n := utf8.RuneCountInString(lines[0]); n != 21+2*quietZone || len(lines) != (n+1)/2 {
		t.Errorf("%d columns and %d lines for a code of 21", n, len(lines))
	}
	for i, line := range lines {
		inner := strings.TrimSuffix(strings.TrimPrefix(line, "████"), "████")
		edge := i < 2 || i >= len(lines)-2
		if len(line)-len(inner) < len("████████") || edge && strings.Trim(inner, "█") != "" {
			t.Errorf("line %d: %q", i, line)
		}
	}
}

func TestNoEscapeSequenceWithoutColours(t *testing.T) {
	if drawn, err := Draw("x", false); err != nil || strings.Contains(drawn, "\x1b") {
		t.Errorf("%q, %v", drawn, err)
	}
	if _, err := Draw(strings.Repeat("x", 3000), false); err == nil || strings.Contains(err.Error(), "xx") {
		t.Errorf("too long: %v", err)
	}
}
