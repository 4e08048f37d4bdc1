package install

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

// unit is a service as its unit file describes it. What the stand-in does not
// know is an error: nothing in a unit file may go unexercised.
type unit struct {
	name             string
	environmentFiles []string // a leading "-" allows the file to be missing
	execStart        []string
	restart          bool
	restartDelay     time.Duration
	killMode         string
	openFiles        uint64 // 0: as the stand-in itself
	wantedBy         []string
	privileges       []string // options of setpriv for what the unit may not do
}

func parseUnit(name, text string) (*unit, error) {
	u := &unit{name: name, killMode: "control-group", restartDelay: 100 * time.Millisecond}
	kind, section := "simple", ""
	for i, line := range strings.Split(text, "\n") {
		fail := func(why string) error { return fmt.Errorf("%s, line %d: %s: %s", name, i+1, why, line) }
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		if strings.HasPrefix(line, "[") {
			section = line
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fail("neither a section nor a setting")
		}
		var err error
		switch section + key {
		case "[Unit]Description", "[Unit]Documentation", "[Unit]After", "[Unit]Wants", "[Service]Delegate", "[Service]TasksMax", "[Service]OOMScoreAdjust":
			// About other units, and what the host is not limited in.
		case "[Unit]StartLimitIntervalSec":
			if value != "0" {
				return nil, fail("only 0 (no limit) is known")
			}
		case "[Service]Type":
			kind = value
		case "[Service]EnvironmentFile":
			u.environmentFiles = append(u.environmentFiles, value)
		case "[Service]ExecStart":
			u.execStart = strings.Fields(value)
		case "[Service]Restart":
			u.restart = value == "always"
		case "[Service]RestartSec":
			u.restartDelay, err = time.ParseDuration(value + "s")
		case "[Service]KillMode":
			u.killMode = value
		case "[Service]CapabilityBoundingSet":
			kept := strings.ToLower(strings.ReplaceAll(value, "CAP_", "+"))
			u.privileges = append(u.privileges, "--bounding-set=-all,"+strings.Join(strings.Fields(kept), ","))
		case "[Service]NoNewPrivileges":
			if value != "yes" {
				return nil, fail("only yes is known")
			}
			u.privileges = append(u.privileges, "--no-new-privs")
		case "[Service]LimitNOFILE":
			u.openFiles, err = strconv.ParseUint(value, 10, 64)
		case "[Install]WantedBy":
			u.wantedBy = strings.Fields(value)
		default:
			return nil, fail("the stand-in for systemd does not know " + section + " " + key)
		}
		if err != nil {
			return nil, fail(err.Error())
		}
	}
	switch {
	case kind != "notify":
		return nil, fmt.Errorf("%s: Type=%s: the stand-in for systemd knows notify", name, kind)
	case u.killMode != "process" && u.killMode != "control-group":
		return nil, fmt.Errorf("%s: KillMode=%s: the stand-in for systemd knows process and control-group", name, u.killMode)
	case len(u.execStart) == 0 || !strings.HasPrefix(u.execStart[0], "/"):
		return nil, fmt.Errorf("%s: ExecStart must begin with an absolute path", name)
	}
	return u, nil
}

// environment is what systemd gives a service of the system's: no HOME, no USER.
func (u *unit) environment() ([]string, error) {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	for _, path := range u.environmentFiles {
		optional := strings.HasPrefix(path, "-")
		f, err := os.Open(strings.TrimPrefix(path, "-"))
		if optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		defer f.Close()
		for scanner := bufio.NewScanner(f); scanner.Scan(); {
			line := strings.TrimSpace(scanner.Text())
			if line == "" || line[0] == '#' || line[0] == ';' {
				continue
			}
			name, value, ok := strings.Cut(line, "=")
			if !ok {
				return nil, fmt.Errorf("%s: not NAME=VALUE: %s", path, line)
			}
			if n := len(value); n > 1 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
				value = value[1 : n-1]
			}
			env = append(env, name+"="+value)
		}
	}
	return env, nil
}

// command is ExecStart with its variables replaced: $NAME, a word of its own,
// becomes as many words as its value has.
func (u *unit) command(env []string) ([]string, error) {
	var argv []string
	for _, word := range u.execStart {
		name, variable := strings.CutPrefix(word, "$")
		if !variable {
			if strings.Contains(word, "$") {
				return nil, fmt.Errorf("%s: ExecStart: %s: the stand-in for systemd knows $NAME only as a word of its own", u.name, word)
			}
			argv = append(argv, word)
			continue
		}
		for _, pair := range env {
			if value, ok := strings.CutPrefix(pair, name+"="); ok {
				argv = append(argv, strings.Fields(value)...)
			}
		}
	}
	return argv, nil
}
