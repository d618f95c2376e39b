//go:build !unix && !windows

package build

import "os"

// lockFile cannot lock here; two runs over one work folder are the user's to avoid.
func lockFile(*os.File) error { return nil }
