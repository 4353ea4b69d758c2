// Package qrcode draws QR codes on terminals.
package qrcode
