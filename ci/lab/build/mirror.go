package build

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// MirrorVariable names the environment variable with the address of Debian's
// archive, for a machine whose apt does not use one.
const MirrorVariable = "LINSTOR_RWX_DEBIAN_MIRROR"

// debianMirror returns the address of Debian's archive that this machine's own
// apt uses. It is only ever passed to debootstrap, never stored.
func debianMirror() (string, error) {
	if mirror := os.Getenv(MirrorVariable); mirror != "" {
		return mirror, nil
	}
	var files []string
	for _, pattern := range []string{"/etc/apt/sources.list.d/*.sources", "/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list"} {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			return "", fmt.Errorf("find Debian's archive: %w", err)
		}
		files = append(files, matches...)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for _, address := range sourceAddresses(filepath.Ext(file), string(content)) {
			if isDebianArchive(address) {
				return address, nil
			}
		}
	}
	return "", errors.New("find Debian's archive: apt on this machine uses none; set " + MirrorVariable)
}

// isDebianArchive tells the archive of Debian itself from those of security
// updates and of other makers: by convention its path ends in /debian.
func isDebianArchive(address string) bool {
	parsed, err := url.Parse(address)
	if err != nil || parsed.Host == "" {
		return false
	}
	path := strings.TrimSuffix(parsed.Path, "/")
	return strings.HasSuffix(path, "/debian") || strings.Contains(path, "/archive/debian/")
}

// sourceAddresses returns the addresses in a file of apt sources, in either of
// the two forms that sources.list(5) describes.
func sourceAddresses(extension, content string) []string {
	var addresses []string
	for line := range strings.Lines(content) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if extension == ".sources" {
			if strings.EqualFold(fields[0], "URIs:") {
				addresses = append(addresses, fields[1:]...)
			}
			continue
		}
		if fields[0] != "deb" {
			continue
		}
		// deb [option=value ...] ADDRESS SUITE COMPONENT...
		first := slices.IndexFunc(fields, func(field string) bool { return strings.Contains(field, "://") })
		if first > 0 {
			addresses = append(addresses, fields[first])
		}
	}
	return addresses
}
