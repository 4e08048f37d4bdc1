package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
)

// program is one row.
type program struct {
	name         string // object/program
	instructions int    // of the program, in the object
	verified     int    // instructions that the verifier walked over
	states       int    // that it kept, in all
	peak         int    // and at once
	machine      int    // bytes of machine code
}

type table struct {
	kernel   string // series that it was measured on
	programs []program
	// lacking has the kfunc that the kernel lacks, by program: it does not load.
	lacking map[string]string
}

const heading = "program\tinstructions\tverified\tstates\tpeak\tmachine code"

func (t *table) String() string {
	var out bytes.Buffer
	fmt.Fprintf(&out, "# What every BPF program costs the verifier. Written by: go run ./test/verifier -accept\n")
	fmt.Fprintf(&out, "# kernel %s\n", t.kernel)
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, heading)
	for _, p := range t.programs {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\n", p.name, p.instructions, p.verified, p.states, p.peak, p.machine)
	}
	w.Flush()
	return out.String()
}

func readTable(path string) (*table, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the committed table (go run ./test/verifier -accept writes it): %w", err)
	}
	t := &table{}
	for number, line := range strings.Split(string(data), "\n") {
		var p program
		switch {
		case strings.HasPrefix(line, "# kernel "):
			t.kernel = strings.TrimPrefix(line, "# kernel ")
			continue
		case line == "", line[0] == '#', strings.HasPrefix(line, "program "):
			continue
		}
		if _, err := fmt.Sscan(line, &p.name, &p.instructions, &p.verified, &p.states, &p.peak, &p.machine); err != nil {
			return nil, fmt.Errorf("%s:%d: %q: %w", path, number+1, line, err)
		}
		t.programs = append(t.programs, p)
	}
	return t, nil
}

func (t *table) find(name string) (program, bool) {
	for _, p := range t.programs {
		if p.name == name {
			return p, true
		}
	}
	return program{}, false
}

// beside prints t with the change since another table was made.
func (t *table) beside(committed *table) string {
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, heading)
	for _, p := range t.programs {
		was, _ := committed.find(p.name)
		fmt.Fprintf(w, "%s", p.name)
		for i, now := range p.figures() {
			fmt.Fprintf(w, "\t%d%s", now.value, change(was.figures()[i].value, now.value))
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	for _, p := range committed.programs {
		if kfunc := t.lacking[p.name]; kfunc != "" {
			fmt.Fprintf(&out, "%s does not load: the kernel has no %s\n", p.name, kfunc)
		}
	}
	return out.String()
}

func change(was, now int) string {
	if was == 0 || was == now {
		return ""
	}
	return fmt.Sprintf(" (%+d%%)", (now-was)*100/was)
}

// figure is one number of a program. slack is growth that is not reported in a
// small program.
type figure struct {
	what     string
	value    int
	slack    int
	anywhere bool // the same on every kernel
}

func (p program) figures() []figure {
	return []figure{
		{"instructions", p.instructions, 20, true},
		{"verified instructions", p.verified, 100, false},
		{"states", p.states, 20, false},
		{"peak states", p.peak, 20, false},
		{"bytes of machine code", p.machine, 200, false},
	}
}

// tolerated is the growth in percent that needs no -accept.
const tolerated = 20

// grown lists the programs that are more than a fifth above the committed table,
// and those that only one of the two has. What depends on the kernel is compared
// on the series that the table was made on.
func (t *table) grown(committed *table) []error {
	var errs []error
	const accept = "if that is wanted: go run ./test/verifier -accept, and say why in the commit"
	for _, p := range t.programs {
		was, known := committed.find(p.name)
		if !known {
			errs = append(errs, fmt.Errorf("%s is not in programs.txt; %s", p.name, accept))
			continue
		}
		before := was.figures()
		for i, now := range p.figures() {
			if !now.anywhere && t.kernel != committed.kernel {
				continue
			}
			if limit := before[i].value + max(before[i].value*tolerated/100, now.slack); now.value > limit {
				errs = append(errs, fmt.Errorf("%s has %d %s, %d before; %s", p.name, now.value, now.what, before[i].value, accept))
			}
		}
	}
	for _, p := range committed.programs {
		if _, there := t.find(p.name); !there && t.lacking[p.name] == "" {
			errs = append(errs, fmt.Errorf("%s is in programs.txt and in no object; %s", p.name, accept))
		}
	}
	return errs
}
