package node

import "runtime/debug"

// version is set by the linker for releases; see the Makefile.
var version = ""

// Version is the software's version, as others are told.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}
