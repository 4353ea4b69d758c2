// Package version holds the version of this build.
package version

// Version is set by the linker: -X .../internal/version.Version=v1.2.3. It is
// never written to at run time.
var Version = "dev"
