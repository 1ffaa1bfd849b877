/* A PKCS#11 module that hands every call on to a real one, and misbehaves as a file says.
 *
 * SHIM_MODULE   path of the real module.
 * SHIM_CONTROL  one line, read before each call that is watched:
 *                 hang              such calls do not return until the line is another
 *                 rv HEX [COUNT]    they return this code, COUNT times or until the line is another
 *                 decrypt HEX       only C_Decrypt does
 *                 stale             once: the session handles of now are invalid until C_Initialize
 *                 absent            no slot has a token, and sessions are gone
 *                 zero_iv           the module leaves a zero vector behind an AES-GCM encryption
 *                 own_iv            as CloudHSM: wants a zero vector, makes its own and writes it back
 *               Missing or empty: nothing.
 * SHIM_LOG      a line for each call of the kinds that are counted: its name and what it returned.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

typedef unsigned long ulong;
typedef ulong (*any)();

enum { /* places in CK_FUNCTION_LIST (PKCS#11 2.40) */
  INITIALIZE = 0, FINALIZE = 1, GET_FUNCTION_LIST = 3, GET_SLOT_LIST = 4, GET_TOKEN_INFO = 6, OPEN_SESSION = 12,
  CLOSE_SESSION = 13, LOGIN = 18, CREATE_OBJECT = 20, DESTROY_OBJECT = 22, GET_ATTRIBUTE_VALUE = 24,
  FIND_OBJECTS_INIT = 26, FIND_OBJECTS = 27, FIND_OBJECTS_FINAL = 28, ENCRYPT_INIT = 29, ENCRYPT = 30,
  DECRYPT_INIT = 33, DECRYPT = 34, GENERATE_KEY = 58, FUNCTIONS = 68
};

struct list { unsigned char version[2]; any call[FUNCTIONS]; };
struct mechanism { ulong kind; void *parameter; ulong length; };
struct gcm { unsigned char *iv; ulong iv_length, iv_bits; unsigned char *aad; ulong aad_length, tag_bits; };

#define CKM_AES_GCM 0x1087UL
#define CKR_DEVICE_REMOVED 0x32UL
#define CKR_MECHANISM_PARAM_INVALID 0x71UL
#define CKR_SESSION_HANDLE_INVALID 0xB3UL
#define CKR_GENERAL_ERROR 5UL

static struct list *real, ours;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int stale; /* until C_Initialize */
static __thread struct gcm *sealing; /* the vector of the encryption that this thread began */
static __thread unsigned char own[12];

static void line(char *text, size_t room) {
  const char *path = getenv("SHIM_CONTROL");
  text[0] = 0;
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  ssize_t got = read(file, text, room - 1);
  close(file);
  text[got > 0 ? got : 0] = 0;
}

static void say(const char *text) {
  const char *path = getenv("SHIM_CONTROL");
  int file = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
  if (file < 0) return;
  if (write(file, text, strlen(text)) < 0) abort();
  close(file);
}

static ulong logged(const char *name, ulong rv) {
  const char *path = getenv("SHIM_LOG");
  int file = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
  if (file < 0) return rv;
  char text[64];
  int length = snprintf(text, sizeof text, "%s %lx\n", name, rv);
  if (write(file, text, length) < 0) abort();
  close(file);
  return rv;
}

static int has(const char *text, const char *word) { return strncmp(text, word, strlen(word)) == 0; }

/* What the control file makes of this call: 0 hands it on. */
static ulong fault(int decrypts) {
  char text[64];
  line(text, sizeof text);
  while (has(text, "hang")) {
    usleep(20000);
    line(text, sizeof text);
  }
  ulong rv = 0, count = 0;
  pthread_mutex_lock(&lock);
  line(text, sizeof text); /* again: another thread may have used the last of a count */
  if (has(text, "stale")) {
    stale = 1;
    say("");
  }
  if (stale) rv = CKR_SESSION_HANDLE_INVALID;
  else if (has(text, "absent")) rv = CKR_DEVICE_REMOVED;
  else if (has(text, "decrypt ")) rv = decrypts ? strtoul(text + 8, NULL, 16) : 0;
  else if (has(text, "rv ")) {
    int fields = sscanf(text, "rv %lx %lu", &rv, &count);
    if (fields == 2) {
      char left[64] = "";
      if (count > 1) snprintf(left, sizeof left, "rv %lx %lu", rv, count - 1);
      say(left);
    }
  }
  pthread_mutex_unlock(&lock);
  return rv;
}

#define WATCH(name, place, parameters, arguments)                                                                     \
  static ulong name parameters {                                                                                      \
    ulong rv = fault(0);                                                                                              \
    return rv ? rv : real->call[place] arguments;                                                                     \
  }
#define COUNT(name, place, parameters, arguments)                                                                     \
  static ulong name parameters {                                                                                      \
    ulong rv = fault(place == DECRYPT);                                                                               \
    return logged(#name, rv ? rv : real->call[place] arguments);                                                      \
  }

COUNT(C_OpenSession, OPEN_SESSION, (ulong slot, ulong flags, void *app, void *notify, ulong *session),
      (slot, flags, app, notify, session))
COUNT(C_Login, LOGIN, (ulong session, ulong user, unsigned char *pin, ulong length), (session, user, pin, length))
COUNT(C_CreateObject, CREATE_OBJECT, (ulong session, void *template, ulong count, ulong *object),
      (session, template, count, object))
COUNT(C_GenerateKey, GENERATE_KEY, (ulong session, void *mechanism, void *template, ulong count, ulong *key),
      (session, mechanism, template, count, key))
COUNT(C_DestroyObject, DESTROY_OBJECT, (ulong session, ulong object), (session, object))
WATCH(C_GetTokenInfo, GET_TOKEN_INFO, (ulong slot, void *info), (slot, info))
WATCH(C_GetAttributeValue, GET_ATTRIBUTE_VALUE, (ulong session, ulong object, void *template, ulong count),
      (session, object, template, count))
WATCH(C_FindObjectsInit, FIND_OBJECTS_INIT, (ulong session, void *template, ulong count), (session, template, count))
WATCH(C_FindObjects, FIND_OBJECTS, (ulong session, ulong *objects, ulong room, ulong *count),
      (session, objects, room, count))
WATCH(C_DecryptInit, DECRYPT_INIT, (ulong session, struct mechanism *mechanism, ulong key), (session, mechanism, key))
COUNT(C_Decrypt, DECRYPT,
      (ulong session, unsigned char *text, ulong length, unsigned char *out, ulong *room),
      (session, text, length, out, room))

static ulong C_CloseSession(ulong session) { return logged("C_CloseSession", real->call[CLOSE_SESSION](session)); }

static ulong C_Initialize(void *arguments) {
  stale = 0;
  return logged("C_Initialize", real->call[INITIALIZE](arguments));
}

static ulong C_Finalize(void *reserved) { return logged("C_Finalize", real->call[FINALIZE](reserved)); }

static ulong C_GetSlotList(unsigned char present, ulong *slots, ulong *count) {
  char text[64];
  line(text, sizeof text);
  if (!has(text, "absent") || !present) return real->call[GET_SLOT_LIST](present, slots, count);
  *count = 0;
  return 0;
}

static ulong C_EncryptInit(ulong session, struct mechanism *mechanism, ulong key) {
  static const unsigned char zero[12];
  ulong rv = fault(0);
  if (rv) return rv;
  char text[64];
  line(text, sizeof text);
  sealing = NULL;
  if (mechanism->kind != CKM_AES_GCM) return real->call[ENCRYPT_INIT](session, mechanism, key);
  struct gcm *gcm = mechanism->parameter;
  if (has(text, "own_iv")) {
    if (memcmp(gcm->iv, zero, sizeof zero) != 0) return CKR_MECHANISM_PARAM_INVALID;
    if (getrandom(own, sizeof own, 0) != sizeof own) return CKR_GENERAL_ERROR;
    sealing = gcm;
    struct gcm theirs = *gcm;
    theirs.iv = own;
    struct mechanism with = {mechanism->kind, &theirs, sizeof theirs};
    return real->call[ENCRYPT_INIT](session, &with, key);
  }
  if (has(text, "zero_iv")) {
    memset(own, 0, sizeof own);
    sealing = gcm;
  }
  return real->call[ENCRYPT_INIT](session, mechanism, key);
}

static ulong C_Encrypt(ulong session, unsigned char *text, ulong length, unsigned char *out, ulong *room) {
  ulong rv = fault(0);
  if (rv) return rv;
  rv = real->call[ENCRYPT](session, text, length, out, room);
  if (rv == 0 && sealing) memcpy(sealing->iv, own, sizeof own);
  sealing = NULL;
  return rv;
}

ulong C_GetFunctionList(struct list **list) {
  static int loaded;
  pthread_mutex_lock(&lock);
  if (!loaded) {
    const char *path = getenv("SHIM_MODULE");
    void *module = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    any get = module ? (any)dlsym(module, "C_GetFunctionList") : NULL;
    if (!get || get(&real) != 0) {
      fprintf(stderr, "shim: cannot load %s\n", path ? path : "SHIM_MODULE");
      pthread_mutex_unlock(&lock);
      return CKR_GENERAL_ERROR;
    }
    ours = *real;
    ours.version[0] = 2;
    ours.version[1] = 40;
#define PUT(name, place) ours.call[place] = (any)name
    PUT(C_Initialize, INITIALIZE); PUT(C_Finalize, FINALIZE); PUT(C_GetFunctionList, GET_FUNCTION_LIST);
    PUT(C_GetSlotList, GET_SLOT_LIST); PUT(C_GetTokenInfo, GET_TOKEN_INFO); PUT(C_OpenSession, OPEN_SESSION);
    PUT(C_CloseSession, CLOSE_SESSION); PUT(C_Login, LOGIN); PUT(C_CreateObject, CREATE_OBJECT);
    PUT(C_DestroyObject, DESTROY_OBJECT); PUT(C_GetAttributeValue, GET_ATTRIBUTE_VALUE);
    PUT(C_FindObjectsInit, FIND_OBJECTS_INIT); PUT(C_FindObjects, FIND_OBJECTS);
    PUT(C_EncryptInit, ENCRYPT_INIT); PUT(C_Encrypt, ENCRYPT); PUT(C_DecryptInit, DECRYPT_INIT);
    PUT(C_Decrypt, DECRYPT); PUT(C_GenerateKey, GENERATE_KEY);
    loaded = 1;
  }
  pthread_mutex_unlock(&lock);
  *list = &ours;
  return 0;
}
