package ganesha

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files")

func plainConfig() Config {
	return Config{
		Export: "pvc-1", ExportID: 7, FSID: "4026531841.77", ServerScope: "pvc-1",
		DataPath: "/var/lib/linstor-rwx/exports/pvc-1/data", PseudoPath: "/pvc-1",
		RecoveryRoot: "/var/lib/linstor-rwx/exports/pvc-1/recovery",
		Port:         20490, Lease: 6 * time.Second, Grace: 60 * time.Second,
	}
}

// A change of these files is a change of what runs: read it as such. Everything
// that stands in them was measured together on ganesha 9.14.
func TestConfigurationIsAsRecorded(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"plain":       func(*Config) {},
		"root-squash": func(c *Config) { c.Squash = RootSquash },
		"everything": func(c *Config) {
			c.Squash, c.ReadOnly = AllSquash, true
			c.Address, c.MetricsPort = "fd00::1", 9587
			c.Lease, c.Grace = 120*time.Second, 240*time.Second
		},
	} {
		t.Run(name, func(t *testing.T) {
			config := plainConfig()
			change(&config)
			got, err := Render(config)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".conf")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestConfigurationCannotBeInjected(t *testing.T) {
	config := plainConfig()
	fields := map[string]*string{
		"export": &config.Export, "scope": &config.ServerScope, "fsid": &config.FSID, "data": &config.DataPath,
		"pseudo": &config.PseudoPath, "recovery": &config.RecoveryRoot, "address": &config.Address,
	}
	for name, field := range fields {
		plain := *field
		for _, evil := range []string{
			plain + "\n}\nEXPORT { Path = /;", plain + `"; Squash = None; x = "`, plain + "; x = 1", plain + " {", plain + " # x",
			plain + "\x00", plain + "\\", "%include /etc/shadow", plain + "/..", "../" + plain, plain + "\n",
		} {
			*field = evil
			if rendered, err := Render(config); err == nil {
				t.Errorf("%s: %q was accepted:\n%s", name, evil, rendered)
			}
		}
		*field = plain
	}
	config.Squash = "none; x = 1"
	if _, err := Render(config); err == nil {
		t.Error("an unknown squash was accepted")
	}
}

func TestConfigurationThatGaneshaRefusesIsNotRendered(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"export id 0":            func(c *Config) { c.ExportID = 0 },
		"export id of 17 bits":   func(c *Config) { c.ExportID = 65536 },
		"no port":                func(c *Config) { c.Port = 0 },
		"lease of 0":             func(c *Config) { c.Lease = 0 },
		"lease too long":         func(c *Config) { c.Lease, c.Grace = 121*time.Second, 240*time.Second },
		"grace too short":        func(c *Config) { c.Grace = 11 * time.Second },
		"grace too long":         func(c *Config) { c.Grace = 241 * time.Second },
		"relative path":          func(c *Config) { c.DataPath = "data" },
		"root as pseudo path":    func(c *Config) { c.PseudoPath = "/" },
		"no name":                func(c *Config) { c.Export = "" },
		"no scope":               func(c *Config) { c.ServerScope = "" },
		"host name as address":   func(c *Config) { c.Address = "localhost" },
		"address with interface": func(c *Config) { c.Address = "fe80::1%eth0" },
	} {
		config := plainConfig()
		change(&config)
		if _, err := Render(config); err == nil {
			t.Errorf("%s was accepted", name)
		} else if !strings.Contains(err.Error(), "configure ganesha for export") {
			t.Errorf("%s: the error does not say where: %v", name, err)
		}
	}
}

func TestHashTellsConfigurationsApart(t *testing.T) {
	render := func(c Config) string {
		rendered, err := Render(c)
		if err != nil {
			t.Fatal(err)
		}
		return Hash(rendered)
	}
	config := plainConfig()
	plain := render(config)
	if plain != render(plainConfig()) {
		t.Error("equal configurations have different hashes")
	}
	config.ReadOnly = true
	if plain == render(config) || plain == "" {
		t.Error("different configurations have the same hash")
	}
}
