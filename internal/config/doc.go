// Package config reads TOML strictly: an unknown key, a wrong type or a value that
// does not parse is an error that names file, line and column, and an unknown key
// also lists the known ones. All faults are reported, not the first one only.
package config
