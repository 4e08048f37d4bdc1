package apiserver

import (
	"net/http"
	"net/http/pprof"
	"strings"
)

const profilePath = "/debug/pprof"

func isProfilePath(path string) bool {
	return path == profilePath || strings.HasPrefix(path, profilePath+"/")
}

// profile serves an administrator pprof's profiles of this process; anyone else is refused before this, as for every path that is not
// public. Use it as: skep get --raw '/debug/pprof/profile?seconds=10' > cpu.pprof
func (s *Server) profile(w http.ResponseWriter, c *call) error {
	if c.Method != http.MethodGet && c.Method != http.MethodHead {
		return methodNotAllowed(c)
	}
	switch name := strings.Trim(strings.TrimPrefix(c.URL.Path, profilePath), "/"); name {
	case "":
		pprof.Index(w, c.Request)
	case "cmdline", "symbol":
		return notFound()
	case "profile":
		pprof.Profile(w, c.Request)
	case "trace":
		pprof.Trace(w, c.Request)
	default:
		pprof.Handler(name).ServeHTTP(w, c.Request)
	}
	return nil
}
