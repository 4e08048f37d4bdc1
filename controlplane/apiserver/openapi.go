package apiserver

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/skep-io/skep/controlplane/openapi"
)

// The protobuf forms of the two OpenAPI versions, as clients name them, and as the answer names them.
const (
	openapiV2Proto = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
	openapiV3Proto = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"
	openapiV2Type  = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	openapiV3Type  = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
)

// openapi answers /openapi/v2, /openapi/v3 and the documents of single group versions below it.
func (s *Server) openapi(w http.ResponseWriter, c *call, path string) error {
	proto, documents := wantsProto(c), s.api.Load().documents
	switch {
	case path == "/openapi/v2" && proto:
		return s.answerOpenAPI(w, c, openapiV2Type, documents.V2Proto)
	case path == "/openapi/v2":
		return s.answerOpenAPI(w, c, mediaJSON, documents.V2)
	case path == "/openapi/v3":
		return s.answerOpenAPI(w, c, mediaJSON, documents.V3Index)
	}
	group, version, ok := openapiGroup(path)
	if !ok {
		return notFound()
	}
	read, mediaType := documents.V3, mediaJSON
	if proto {
		read, mediaType = documents.V3Proto, openapiV3Type
	}
	if asked := c.query.Get("hash"); asked != "" {
		have, err := documents.V3Hash(group, version)
		if err != nil {
			return openapiError(err)
		}
		if asked != have { // the index that the client has is from another version of the server
			target := url.URL{Path: path, RawQuery: url.Values{"hash": {have}}.Encode()}
			http.Redirect(w, c.Request, target.String(), http.StatusMovedPermanently)
			return nil
		}
	}
	return s.answerOpenAPI(w, c, mediaType, func() ([]byte, error) { return read(group, version) })
}

func (s *Server) answerOpenAPI(w http.ResponseWriter, c *call, mediaType string, read func() ([]byte, error)) error {
	data, err := read()
	if err != nil {
		return openapiError(err)
	}
	doc := newEtag(data)
	w.Header().Set("ETag", doc)
	w.Header().Add("Vary", "Accept")
	if c.Header.Get("If-None-Match") == doc {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	writeBytes(w, c.Request, mediaType, http.StatusOK, data)
	return nil
}

func openapiError(err error) error {
	var notServed *openapi.NotServedError
	if errors.As(err, &notServed) {
		return notFound()
	}
	return err
}

// openapiGroup reads /openapi/v3/api/v1 and /openapi/v3/apis/GROUP/VERSION.
func openapiGroup(path string) (group, version string, ok bool) {
	parts := strings.Split(strings.TrimPrefix(path, "/openapi/v3/"), "/")
	switch {
	case len(parts) == 2 && parts[0] == "api":
		return "", parts[1], true
	case len(parts) == 3 && parts[0] == "apis":
		return parts[1], parts[2], true
	}
	return "", "", false
}

// wantsProto says whether a client names protobuf before JSON. The types contain an at sign, which a parser of media types refuses, so they
// are searched for as text.
func wantsProto(c *call) bool {
	for part := range strings.SplitSeq(strings.Join(c.Header.Values("Accept"), ","), ",") {
		mediaType, _, _ := strings.Cut(part, ";")
		switch strings.TrimSpace(mediaType) {
		case openapiV2Proto, openapiV3Proto, openapiV2Type, openapiV3Type:
			return true
		case mediaJSON, "*/*":
			return false
		}
	}
	return false
}
