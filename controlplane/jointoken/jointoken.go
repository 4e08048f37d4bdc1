// Package jointoken is the form of the tokens by which hosts join a cluster: as text, for the host, and as the Secret of type
// bootstrap.kubernetes.io/token in kube-system that the API server compares it with, with kubeadm's names and keys.
//
// It reads and makes both and says whether a token counts. It never stores anything and signs nothing.
package jointoken

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The keys of a token's Secret, and the start of its name.
const (
	SecretPrefix      = "bootstrap-token-"
	keyID             = "token-id"
	keySecret         = "token-secret"
	keyExpiration     = "expiration"
	keyDescription    = "description"
	keyAuthentication = "usage-bootstrap-authentication"
	keyExtraGroups    = "auth-extra-groups"
	keyNode           = "node-name" // Skep's own: the only node that may join with it
	keyServer         = "usage-server-join"
	keyServerName     = "server-name" // the server that has begun to join with it
)

// MaxServerTTL bounds the life of a token for servers, which is worth the whole cluster; ServerTTL is its default.
const (
	MaxServerTTL = 24 * time.Hour
	ServerTTL    = time.Hour
)

// DefaultTTL is how long a token is valid if nothing else is asked for.
const DefaultTTL = 24 * time.Hour

const (
	prefix       = "skep2"
	idSize       = 6
	secretSize   = 16
	hashDigits   = 32
	tokenLetters = "0123456789abcdefghijklmnopqrstuvwxyz"
)

var (
	idPattern     = regexp.MustCompile(`^[a-z0-9]{6}$`)
	secretPattern = regexp.MustCompile(`^[a-z0-9]{16}$`)
	hashPattern   = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// Text is a token as a host gets it: skep2.HASH.ID.SECRET. The host verifies by the hash the authority that an unverified server sends, and
// the server verifies the host by the secret.
type Text struct{ CAHash, ID, Secret string }

func (t Text) String() string { return strings.Join([]string{prefix, t.CAHash, t.ID, t.Secret}, ".") }

// Parse reads a token.
func Parse(text string) (Text, error) {
	parts := strings.Split(strings.TrimSpace(text), ".")
	if len(parts) != 4 || parts[0] != prefix || !hashPattern.MatchString(parts[1]) || !idPattern.MatchString(parts[2]) || !secretPattern.MatchString(parts[3]) {
		return Text{}, errors.New("not a join token: one looks like skep2.HASH.ID.SECRET, and `skep token create` makes one")
	}
	return Text{CAHash: parts[1], ID: parts[2], Secret: parts[3]}, nil
}

// Hash is the start of the SHA-256 sum of an authority's certificate, in hex.
func Hash(caPEM []byte) (string, error) {
	block, _ := pem.Decode(caPEM)
	if block == nil {
		return "", errors.New("the authority's certificate is not a PEM file")
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])[:hashDigits], nil
}

// New makes the text of a token for the cluster of an authority.
func New(caPEM []byte) (Text, error) {
	hash, err := Hash(caPEM)
	if err != nil {
		return Text{}, err
	}
	id, err := random(idSize)
	if err != nil {
		return Text{}, err
	}
	secret, err := random(secretSize)
	return Text{CAHash: hash, ID: id, Secret: secret}, err
}

// random makes a word of letters and digits with equal probability.
func random(size int) (string, error) {
	word := make([]byte, 0, size)
	for len(word) < size {
		var b [1]byte
		if _, err := rand.Read(b[:]); err != nil {
			return "", fmt.Errorf("make a join token: %w", err)
		}
		if limit := 256 / len(tokenLetters) * len(tokenLetters); int(b[0]) < limit {
			word = append(word, tokenLetters[int(b[0])%len(tokenLetters)])
		}
	}
	return string(word), nil
}

// Token is the stored part of a token.
type Token struct {
	ID, Secret, Description string
	Expires                 time.Time // zero: never
	Authentication          bool      // hosts may join with it
	ExtraGroups             string
	Server                  bool   // a server may join with it, and no node
	ServerName              string // the only server that may, once one has begun to
	Node                    string // the only node that may join with it, also in the place of one that exists; empty: any new one
}

// Object is the token's Secret.
func (t Token) Object() *corev1.Secret {
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: SecretPrefix + t.ID},
		Type:       corev1.SecretTypeBootstrapToken,
		Data:       map[string][]byte{keyID: []byte(t.ID), keySecret: []byte(t.Secret)},
	}
	if t.Server {
		secret.Data[keyServer] = []byte("true")
	} else {
		secret.Data[keyAuthentication] = []byte("true")
	}
	if !t.Expires.IsZero() {
		secret.Data[keyExpiration] = []byte(t.Expires.UTC().Format(time.RFC3339))
	}
	for key, value := range map[string]string{keyDescription: t.Description, keyNode: t.Node, keyExtraGroups: t.ExtraGroups, keyServerName: t.ServerName} {
		if value != "" {
			secret.Data[key] = []byte(value)
		}
	}
	return secret
}

// Of reads a token from its Secret. A Secret that is not exactly of that form is an error.
func Of(secret *corev1.Secret) (Token, error) {
	t := Token{
		ID: string(secret.Data[keyID]), Secret: string(secret.Data[keySecret]), Description: string(secret.Data[keyDescription]),
		Authentication: string(secret.Data[keyAuthentication]) == "true", ExtraGroups: string(secret.Data[keyExtraGroups]), Node: string(secret.Data[keyNode]),
		Server: string(secret.Data[keyServer]) == "true", ServerName: string(secret.Data[keyServerName]),
	}
	switch {
	case secret.Type != corev1.SecretTypeBootstrapToken || secret.Namespace != metav1.NamespaceSystem:
		return t, errors.New("not a Secret of type bootstrap.kubernetes.io/token in kube-system")
	case !idPattern.MatchString(t.ID) || secret.Name != SecretPrefix+t.ID:
		return t, fmt.Errorf("%s does not name the token as the Secret's name does", keyID)
	case !secretPattern.MatchString(t.Secret):
		return t, fmt.Errorf("%s is not 16 letters and digits", keySecret)
	}
	if text, ok := secret.Data[keyExpiration]; ok {
		expires, err := time.Parse(time.RFC3339, string(text))
		if err != nil {
			return t, fmt.Errorf("%s %q is not a time as RFC 3339 writes it", keyExpiration, text)
		}
		t.Expires = expires
	}
	return t, nil
}

// Expired says whether the token has expired.
func (t Token) Expired(now time.Time) bool { return !t.Expires.IsZero() && !now.Before(t.Expires) }

// Matches says whether a host sent this token. It takes constant time, however much of the secret is right.
func (t Token) Matches(shown Text, now time.Time) bool {
	return t.is(shown) && t.Authentication && !t.Server && !t.Expired(now)
}

func (t Token) is(shown Text) bool {
	return subtle.ConstantTimeCompare([]byte(t.Secret), []byte(shown.Secret)) == 1 && t.ID == shown.ID
}

// MatchesServer is Matches for a server. A token without an end, or with one too far away, never counts.
func (t Token) MatchesServer(shown Text, made, now time.Time) bool {
	return t.is(shown) && t.Server && !t.Authentication && !t.Expires.IsZero() && !t.Expired(now) && t.Expires.Sub(made) <= MaxServerTTL+time.Minute
}
