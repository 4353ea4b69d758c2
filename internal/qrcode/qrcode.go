package qrcode

import (
	"fmt"
	"strings"

	"rsc.io/qr"
)

// quietZone is the light edge that readers need around a code, in modules.
const quietZone = 4

// White on black by their numbers in the palette of 256, which no theme changes.
const (
	whiteOnBlack = "\x1b[38;5;231;48;5;16m"
	plain        = "\x1b[0m"
)

// Draw returns text as a QR code of half-block characters, two modules in each, with
// its quiet zone: lines that end with a newline. In colours it can be read on any
// terminal. Without, the light parts are the blocks, which is right where the
// background is dark. The error is that of a text too long for a QR code.
func Draw(text string, colours bool) (string, error) {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return "", fmt.Errorf("draw QR code of %d characters: %w", len(text), err)
	}
	light := func(x, y int) bool { return !code.Black(x, y) } // light as well outside of it
	var out strings.Builder
	for y := -quietZone; y < code.Size+quietZone; y += 2 {
		if colours {
			out.WriteString(whiteOnBlack)
		}
		for x := -quietZone; x < code.Size+quietZone; x++ {
			out.WriteRune(block(light(x, y), light(x, y+1)))
		}
		if colours {
			out.WriteString(plain)
		}
		out.WriteByte('\n')
	}
	return out.String(), nil
}

// block is a character whose halves are set where the module is light.
func block(upper, lower bool) rune {
	switch {
	case upper && lower:
		return '█'
	case upper:
		return '▀'
	case lower:
		return '▄'
	}
	return ' '
}
