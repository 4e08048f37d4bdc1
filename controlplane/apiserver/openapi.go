package apiserver

import "net/http"

func (s *Server) openapi(w http.ResponseWriter, c *call, path string) error { return notFound() }
